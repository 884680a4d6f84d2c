//! The whole keyspace, drawn. No key is spelt anywhere else.
//!
//! ```text
//! /switchyard/<cluster>/
//!   head                     put by every transaction of ours, uncompared; value: the write's id, whose it is, and its clock
//!   schema                   Schema: which controllers may work on this store; none is all
//!   nodes/<node>             NodeRecord: configuration and last full report             no lease
//!   nodes-alive/<node>       Presence                                                   node's lease
//!   groups/<group>           GroupRecord                                                no lease
//!   group-names/<name>       GroupName: whose this (hashed) name is                     no lease
//!   apikeys/<key>            ApiKey: groups, end, generation, public half                no lease
//!   permission-groups/<name> PermissionRecord: what this (hashed) group of callers may do  no lease
//!   instances/<instance>     InstanceRecord                                             no lease
//!   commands/<node>/<command>  CommandRecord: what a node is to do beside starts        no lease
//!   orders                   OrdersTurn: put with what many nodes are to do, compared       no lease
//!   distributions/<id>       DistributionRecord: a template for many nodes              no lease
//!   macs/<address>           MacRecord: which instance has it, with managed addresses    no lease
//!   images/<id>              ImageRecord: a VM that is saved                            no lease
//!   queue/start/<instance>   QueueEntry: pending start with its ordering key            no lease
//!   requests/<start>         StartRecord: ids, body hash, expiry                        no lease
//!   members/<role>/<name>    Member: address, version, zone; by controllers, registries  member's lease
//!   cohort/<service>         from which version proxies serve agents, by proxies        no lease
//!   events/<event>           Event: what was done, for a while                          no lease
//!   event-position           how far the receiver of events is                          no lease
//!   leader/<duty>            Leader: who runs it                                        leader's lease
//! /switchyard-bulk/<cluster>/
//!   scripts/<start>/<n>      a startup script, in chunks                                no lease
//!   image-outputs/<id>/<n>   all of the output of an image's script, in chunks         no lease
//!   outputs/<instance>/<n>   a script's output, in chunks                               no lease
//! ```
//!
//! Bulk is outside the watched prefix, so large values do not pass through every controller's cache.

use crate::model::{
    ApiKeyId, CommandId, Digest, DistributionId, GroupId, ImageId, InstanceId, MacAddress, NodeId, StartId,
};

/// The keys of one cluster.
#[derive(Debug, Clone)]
pub struct Keys {
    root: String,
    bulk: String,
}

/// What a watched key is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject<'a> {
    /// The key that every transaction of ours puts.
    Head,
    /// Which controllers may work on the store.
    Schema,
    /// A node's record.
    Node(&'a str),
    /// A node's presence.
    NodeAlive(&'a str),
    /// A group of nodes.
    Group(&'a str),
    /// An API key.
    ApiKey(&'a str),
    /// A group of callers, by the hash of its name.
    PermissionGroup(&'a str),
    /// An instance.
    Instance(&'a str),
    /// A command for a node: node, command.
    Command(&'a str, &'a str),
    /// A distribution of a template.
    Distribution(&'a str),
    /// A MAC address that an instance has.
    Mac(&'a str),
    /// A VM that is saved.
    Image(&'a str),
    /// A pending start.
    QueuedStart(&'a str),
    /// A start request.
    Start(&'a str),
    /// A member: role, name.
    Member(&'a str, &'a str),
    /// A duty's leader.
    Leader(&'a str),
    /// An event of the log.
    Event(&'a str),
    /// Written by a newer version; not ours to judge.
    Other,
}

impl Keys {
    /// The keys of this cluster.
    pub fn new(cluster: &str) -> Self {
        Self { root: format!("/switchyard/{cluster}/"), bulk: format!("/switchyard-bulk/{cluster}/") }
    }

    /// The watched prefix.
    pub fn root(&self) -> &str {
        &self.root
    }

    /// See the drawing.
    pub fn head(&self) -> String {
        format!("{}head", self.root)
    }

    /// See the drawing.
    pub fn schema(&self) -> String {
        format!("{}schema", self.root)
    }

    /// See the drawing.
    pub fn node(&self, id: &NodeId) -> String {
        format!("{}nodes/{id}", self.root)
    }

    /// See the drawing.
    pub fn node_alive(&self, id: &NodeId) -> String {
        format!("{}nodes-alive/{id}", self.root)
    }

    /// See the drawing.
    pub fn group(&self, id: &GroupId) -> String {
        format!("{}groups/{id}", self.root)
    }

    /// See the drawing. A name is any text: its hash makes a key of bounded length.
    pub fn group_name(&self, name: &str) -> String {
        format!("{}group-names/{}", self.root, Digest::of(name.as_bytes()).hex())
    }

    /// See the drawing.
    pub fn api_key(&self, id: &ApiKeyId) -> String {
        format!("{}apikeys/{id}", self.root)
    }

    /// See the drawing. A name is any text: its hash makes a key of bounded length.
    pub fn permission_group(&self, name: &str) -> String {
        format!("{}permission-groups/{}", self.root, Digest::of(name.as_bytes()).hex())
    }

    /// See the drawing.
    pub fn instance(&self, id: &InstanceId) -> String {
        format!("{}instances/{id}", self.root)
    }

    /// See the drawing.
    pub fn command(&self, node: &NodeId, id: &CommandId) -> String {
        format!("{}commands/{node}/{id}", self.root)
    }

    /// See the drawing.
    pub fn orders(&self) -> String {
        format!("{}orders", self.root)
    }

    /// See the drawing.
    pub fn distribution(&self, id: &DistributionId) -> String {
        format!("{}distributions/{id}", self.root)
    }

    /// See the drawing.
    pub fn image(&self, id: &ImageId) -> String {
        format!("{}images/{id}", self.root)
    }

    /// See the drawing.
    pub fn queued_start(&self, id: &InstanceId) -> String {
        format!("{}queue/start/{id}", self.root)
    }

    /// See the drawing.
    pub fn mac(&self, mac: MacAddress) -> String {
        format!("{}macs/{mac}", self.root)
    }

    /// See the drawing.
    pub fn start(&self, id: &StartId) -> String {
        format!("{}requests/{id}", self.root)
    }

    /// See the drawing.
    pub fn member(&self, role: &str, name: &str) -> String {
        format!("{}members/{role}/{name}", self.root)
    }

    /// The prefix of all members of a role.
    pub fn members(&self, role: &str) -> String {
        format!("{}members/{role}/", self.root)
    }

    /// See the drawing.
    pub fn cohort(&self, service: &str) -> String {
        format!("{}cohort/{service}", self.root)
    }

    /// See the drawing.
    pub fn event(&self, id: &str) -> String {
        format!("{}events/{id}", self.root)
    }

    /// See the drawing.
    pub fn event_position(&self) -> String {
        format!("{}event-position", self.root)
    }

    /// See the drawing.
    pub fn leader(&self, duty: &str) -> String {
        format!("{}leader/{duty}", self.root)
    }

    /// See the drawing.
    pub fn script_chunk(&self, id: &StartId, n: usize) -> String {
        format!("{}{n:04}", self.scripts(id))
    }

    /// The prefix of all scripts.
    pub fn all_scripts(&self) -> String {
        format!("{}scripts/", self.bulk)
    }

    /// The prefix of one script's chunks.
    pub fn scripts(&self, id: &StartId) -> String {
        format!("{}scripts/{id}/", self.bulk)
    }

    /// See the drawing. `id`: the image's, which its command has too.
    pub fn image_output_chunk(&self, id: &str, n: usize) -> String {
        format!("{}{n:04}", self.image_outputs(id))
    }

    /// The prefix of the chunks of one image's output.
    pub fn image_outputs(&self, id: &str) -> String {
        format!("{}image-outputs/{id}/", self.bulk)
    }

    /// See the drawing.
    pub fn output_chunk(&self, id: &InstanceId, n: usize) -> String {
        format!("{}{n:04}", self.outputs(id))
    }

    /// The prefix of one script output's chunks.
    pub fn outputs(&self, id: &InstanceId) -> String {
        format!("{}outputs/{id}/", self.bulk)
    }

    /// What a key below [`Keys::root`] is about.
    pub fn subject<'a>(&self, key: &'a str) -> Subject<'a> {
        let Some(rest) = key.strip_prefix(&self.root) else { return Subject::Other };
        match rest {
            "head" => return Subject::Head,
            "schema" => return Subject::Schema,
            _ => {}
        }
        match rest.split_once('/') {
            Some(("nodes", id)) => Subject::Node(id),
            Some(("nodes-alive", id)) => Subject::NodeAlive(id),
            Some(("groups", id)) => Subject::Group(id),
            Some(("apikeys", id)) => Subject::ApiKey(id),
            Some(("permission-groups", hash)) => Subject::PermissionGroup(hash),
            Some(("instances", id)) => Subject::Instance(id),
            Some(("commands", rest)) => match rest.split_once('/') {
                Some((node, id)) => Subject::Command(node, id),
                None => Subject::Other,
            },
            Some(("distributions", id)) => Subject::Distribution(id),
            Some(("images", id)) => Subject::Image(id),
            Some(("requests", id)) => Subject::Start(id),
            Some(("events", id)) => Subject::Event(id),
            Some(("macs", mac)) => Subject::Mac(mac),
            Some(("leader", duty)) => Subject::Leader(duty),
            Some(("queue", rest)) => match rest.split_once('/') {
                Some(("start", id)) => Subject::QueuedStart(id),
                _ => Subject::Other,
            },
            Some(("members", rest)) => match rest.split_once('/') {
                Some((role, name)) => Subject::Member(role, name),
                None => Subject::Other,
            },
            _ => Subject::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_reads_back_as_its_subject() {
        let keys = Keys::new("main");
        let node = NodeId::parse("n1").unwrap();
        let instance = InstanceId::parse("i1").unwrap();
        assert_eq!(keys.subject(&keys.head()), Subject::Head);
        assert_eq!(keys.subject(&keys.schema()), Subject::Schema);
        assert_eq!(keys.subject(&keys.node(&node)), Subject::Node("n1"));
        assert_eq!(keys.subject(&keys.node_alive(&node)), Subject::NodeAlive("n1"));
        assert_eq!(keys.subject(&keys.api_key(&ApiKeyId::parse("k1").unwrap())), Subject::ApiKey("k1"));
        let group = keys.permission_group("team a/b");
        assert!(
            matches!(keys.subject(&group), Subject::PermissionGroup(hash) if hash.len() == 64),
            "{group}"
        );
        assert_eq!(keys.subject(&keys.group(&GroupId::parse("g1").unwrap())), Subject::Group("g1"));
        assert_eq!(keys.subject(&keys.group_name("macs / 1")), Subject::Other);
        assert_eq!(keys.subject(&keys.instance(&instance)), Subject::Instance("i1"));
        let command = CommandId::parse("c1").unwrap();
        assert_eq!(keys.subject(&keys.command(&node, &command)), Subject::Command("n1", "c1"));
        assert_eq!(keys.subject(&keys.orders()), Subject::Other);
        let distribution = DistributionId::parse("d1").unwrap();
        assert_eq!(keys.subject(&keys.distribution(&distribution)), Subject::Distribution("d1"));
        let image = ImageId::parse("m1").unwrap();
        assert_eq!(keys.subject(&keys.image(&image)), Subject::Image("m1"));
        assert_eq!(keys.subject(&keys.queued_start(&instance)), Subject::QueuedStart("i1"));
        assert_eq!(keys.subject(&keys.start(&StartId::parse("s1").unwrap())), Subject::Start("s1"));
        assert_eq!(keys.subject(&keys.member("controller", "c1")), Subject::Member("controller", "c1"));
        assert_eq!(keys.subject(&keys.event("7-x")), Subject::Event("7-x"));
        assert_eq!(keys.subject(&keys.event_position()), Subject::Other);
        let mac = "02:00:00:00:00:0A".parse().unwrap();
        assert_eq!(keys.subject(&keys.mac(mac)), Subject::Mac("02:00:00:00:00:0A"));
        assert_eq!(keys.subject(&keys.leader("expiry")), Subject::Leader("expiry"));
        assert_eq!(keys.subject("/switchyard/main/later/x"), Subject::Other);
        assert_eq!(keys.subject("/switchyard/other/head"), Subject::Other);
    }
}
