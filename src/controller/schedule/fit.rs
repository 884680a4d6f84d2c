//! Whether a node may get a start, and in words why none does.

use super::room::Room;
use crate::{
    controller::records::{InstanceSpec, NodeRecord},
    model::{Arch, NodeId, TemplateId},
    wire::permission::CREATE_INSTANCE,
};

/// What decides which nodes suit a start, and which have its template: starts of one kind differ for no node.
/// The queue is kept by kind, so that a poll never looks at those that its node could not run anyway.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Kind {
    template: TemplateId,
    tag: String,
    arch: Option<Arch>,
    node: Option<NodeId>,
    group_id: String,
    permission_group: String,
    usb_device: String,
}

impl Kind {
    /// The kind of a start.
    pub fn of(spec: &InstanceSpec) -> Self {
        Self {
            template: spec.template.clone(),
            tag: spec.tag.clone(),
            arch: spec.arch,
            node: spec.node.clone(),
            group_id: spec.group_id.clone(),
            permission_group: spec.permission_group.clone(),
            usb_device: spec.usb_device.clone(),
        }
    }
}

/// A node as scheduling sees it.
#[derive(Debug, Clone, Copy)]
pub struct Candidate<'a> {
    /// Its record.
    pub node: &'a NodeRecord,
    /// It reports.
    pub present: bool,
    /// Places taken by what the controllers gave it.
    pub taken: u32,
    /// Of these: by VMs that are there although they failed.
    pub kept: u32,
    /// It pulls a template: it takes nothing else meanwhile.
    pub pulling: bool,
    /// Its agent is being replaced: it takes nothing meanwhile.
    pub updating: bool,
    /// What is free there; none where VMs are counted.
    pub room: Option<Room<'a>>,
    /// The USB device that the start asks for is another VM's there.
    pub usb_busy: bool,
}

/// What a node is to a start, as far as the group that was asked for goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Grouped {
    /// Not in it, nor in one that stands in for it now.
    Outside,
    /// In one that stands in for it, which has no room.
    Fallback,
    /// In it, or none was asked for.
    Member,
}

/// Why a node does not get a start. In the order in which they are told: the last one is the nearest to fitting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Misfit {
    /// Another node was asked for.
    OtherNode,
    /// It cannot run the template's architecture.
    Architecture,
    /// It is not in the group that was asked for.
    Group,
    /// It does not have the USB device that was asked for.
    Usb,
    /// It is silent.
    Silent,
    /// It is drained.
    Drained,
    /// It has no place left.
    Full,
    /// Its agent is being replaced.
    Updating,
    /// It pulls a template.
    Pulling,
    /// It has the USB device that was asked for, and another VM has it.
    UsbBusy,
    /// It has room, and is kept free for a start that needs more of it.
    Reserved,
}

impl Misfit {
    /// How near to fitting a node is that has nothing else in the way.
    pub fn nearness(self) -> usize {
        self as usize
    }

    /// The word of the API.
    pub fn word(self) -> &'static str {
        match self {
            Self::OtherNode => "other-node",
            Self::Architecture => "architecture",
            Self::Group => "group",
            Self::Usb => "usb",
            Self::Silent => "silent",
            Self::Drained => "drained",
            Self::Full => "full",
            Self::Updating => "updating",
            Self::Pulling => "pulling",
            Self::UsbBusy => "usb-busy",
            Self::Reserved => "reserved",
        }
    }

    /// In words, of a node whatever the start.
    pub fn of_node(self, candidate: Candidate<'_>) -> String {
        match self {
            Self::Silent => "it is not reporting".into(),
            Self::Drained => "it takes no starts: drain mode".into(),
            Self::Full if let Some(room) = candidate.room => {
                format!("it has no room: {}", room.taken_in_words())
            }
            Self::Full => {
                let kept = match candidate.kept {
                    0 => String::new(),
                    kept => format!(
                        ", {kept} of them by failed instances whose VM is kept until they are terminated"
                    ),
                };
                let (taken, capacity) = (candidate.taken, candidate.node.settings.capacity);
                format!("it has no room: {taken} of {capacity} places are taken{kept}")
            }
            Self::Updating => {
                "its agent is being replaced by a newer one, and takes nothing meanwhile".into()
            }
            Self::Pulling => "it is pulling a template, and takes nothing else meanwhile".into(),
            Self::Reserved => "it is kept free for a start that needs more room than is there now".into(),
            Self::OtherNode | Self::Architecture | Self::Group | Self::Usb | Self::UsbBusy => {
                "it does not suit the start".into()
            }
        }
    }

    /// In words, of one node.
    pub fn about(self, spec: &InstanceSpec, candidate: Candidate<'_>) -> String {
        match self {
            Self::OtherNode => {
                format!("the start asks for node `{}`", spec.node.as_ref().map_or("", NodeId::as_str))
            }
            Self::Architecture => {
                let arch = spec.arch.map_or("its architecture", |arch| arch.as_str());
                format!("it cannot run {arch}")
            }
            Self::Group if !spec.permission_group.is_empty() => format!(
                "it is no resource of group `{}` with `{CREATE_INSTANCE}`, nor is its agent's credential of that group",
                spec.permission_group
            ),
            Self::Group => format!("it is not in group `{}`, nor does it stand in for it now", spec.group_id),
            Self::Usb => format!("it has no USB device `{}`", spec.usb_device),
            Self::Full if let Some(room) = candidate.room => room.lacks(spec, candidate.node),
            Self::Silent | Self::Drained | Self::Full | Self::Updating | Self::Pulling | Self::Reserved => {
                self.of_node(candidate)
            }
            Self::UsbBusy => format!("its USB device `{}` is another VM's", spec.usb_device),
        }
    }
}

/// Whether the node could ever run it.
pub fn suits(spec: &InstanceSpec, node: &NodeRecord, grouped: Grouped) -> Result<(), Misfit> {
    if spec.node.as_ref().is_some_and(|wanted| *wanted != node.id) {
        return Err(Misfit::OtherNode);
    }
    if spec.arch.is_some_and(|arch| !node.facts.runs.contains(&arch)) {
        return Err(Misfit::Architecture);
    }
    if grouped == Grouped::Outside {
        return Err(Misfit::Group);
    }
    if !spec.usb_device.is_empty() && !node.facts.usb_devices.contains(&spec.usb_device) {
        return Err(Misfit::Usb);
    }
    Ok(())
}

/// Whether the node may get any start now.
pub fn takes_starts(candidate: Candidate<'_>) -> Result<(), Misfit> {
    if !candidate.present {
        return Err(Misfit::Silent);
    }
    if candidate.node.settings.drain_mode {
        return Err(Misfit::Drained);
    }
    let full = match candidate.room {
        Some(room) => room.is_full(),
        None => candidate.taken >= candidate.node.settings.capacity,
    };
    if full {
        return Err(Misfit::Full);
    }
    if candidate.updating {
        return Err(Misfit::Updating);
    }
    if candidate.pulling {
        return Err(Misfit::Pulling);
    }
    Ok(())
}

/// Whether the node may get this start now.
pub fn fits(spec: &InstanceSpec, candidate: Candidate<'_>, grouped: Grouped) -> Result<(), Misfit> {
    suits(spec, candidate.node, grouped)?;
    takes_starts(candidate)?;
    if candidate.usb_busy {
        return Err(Misfit::UsbBusy);
    }
    if has_room(spec, candidate) { Ok(()) } else { Err(Misfit::Full) }
}

/// Whether there is room for just this start, at a node that takes starts.
pub fn has_room(spec: &InstanceSpec, candidate: Candidate<'_>) -> bool {
    candidate.room.is_none_or(|room| room.has(spec, candidate.node))
}

/// Whether the template is on the node's disk.
pub fn has_template(spec: &InstanceSpec, node: &NodeRecord) -> bool {
    node.facts.templates.iter().any(|t| t.uuid == spec.template.as_str() && t.tag == spec.tag)
}

/// Bytes of the template's layers that are on the node's disk, as far as that is known.
pub fn layers_there(spec: &InstanceSpec, node: &NodeRecord) -> u64 {
    let there = &node.facts.layers;
    spec.layers.iter().filter_map(|layer| there.get(layer)).fold(0, |sum, size| sum.saturating_add(*size))
}

/// Why a start waits: what the nearest of these nodes lacks. `reserved`: a node that has room for it is kept free for a larger
/// one.
pub fn why_waiting<'a>(
    spec: &InstanceSpec,
    candidates: impl Iterator<Item = (Candidate<'a>, Grouped)>,
    reserved: impl Fn(Candidate<'a>) -> bool,
) -> String {
    let mut nearest = None;
    let mut count = 0;
    let mut too_large = true;
    for (candidate, grouped) in candidates {
        count += 1;
        match fits(spec, candidate, grouped) {
            Ok(()) if reserved(candidate) => nearest = nearest.max(Some(Misfit::Reserved)),
            Ok(()) => return "a node will take it soon".into(),
            Err(misfit) => {
                let could = candidate.room.is_none_or(|room| room.could_have(spec, candidate.node));
                too_large &= misfit != Misfit::Full || !could;
                nearest = nearest.max(Some(misfit));
            }
        }
    }
    let pinned = spec.node.as_ref().map(NodeId::as_str);
    match (nearest, pinned) {
        (None, _) => "no node has joined".into(),
        (Some(Misfit::OtherNode), pinned) => {
            format!("no node `{}` has joined; the start asks for that one", pinned.unwrap_or_default())
        }
        (Some(Misfit::Architecture), None) => {
            let arch = spec.arch.map_or("its architecture", |arch| arch.as_str());
            format!("no node of {count} can run {arch}")
        }
        (Some(Misfit::Architecture), Some(node)) => {
            let arch = spec.arch.map_or("its architecture", |arch| arch.as_str());
            format!("node `{node}` cannot run {arch}")
        }
        (Some(Misfit::Group), _) if !spec.permission_group.is_empty() => {
            format!("no node that could run it serves group `{}` of callers", spec.permission_group)
        }
        (Some(Misfit::Group), _) => format!("no node that could run it is in group `{}`", spec.group_id),
        (Some(Misfit::Usb), _) => format!("no node that could run it has USB device `{}`", spec.usb_device),
        (Some(Misfit::Silent), None) => "no node that could run it is reporting".into(),
        (Some(Misfit::Silent), Some(node)) => format!("node `{node}` is not reporting"),
        (Some(Misfit::Drained), None) => "no node that could run it takes starts: drain mode".into(),
        (Some(Misfit::Drained), Some(node)) => format!("node `{node}` takes no starts: drain mode"),
        (Some(Misfit::Full), None) if too_large => {
            "it needs more processors or memory than any node that could run it has for VMs".into()
        }
        (Some(Misfit::Full), Some(node)) if too_large => {
            format!("it needs more processors or memory than node `{node}` has for VMs")
        }
        (Some(Misfit::Full), None) => "no node that could run it has room".into(),
        (Some(Misfit::Full), Some(node)) => format!("node `{node}` has no room"),
        (Some(Misfit::Updating), None) => {
            "no node that could run it is free: its agent is being replaced".into()
        }
        (Some(Misfit::Updating), Some(node)) => format!("the agent of node `{node}` is being replaced"),
        (Some(Misfit::Pulling), None) => "no node that could run it is free: pulling a template".into(),
        (Some(Misfit::Pulling), Some(node)) => format!("node `{node}` is pulling a template"),
        (Some(Misfit::Reserved), None) => {
            "nodes that have room for it are kept free for a start that needs more and has waited longer"
                .into()
        }
        (Some(Misfit::Reserved), Some(node)) => {
            format!("node `{node}` is kept free for a start that needs more room and has waited longer")
        }
        (Some(Misfit::UsbBusy), _) => format!("USB device `{}` is another VM's", spec.usb_device),
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::room::{self, Size, Sizes},
        *,
    };
    use crate::{
        model::{Arch, Digest, LayerId, TemplateId, Timestamp},
        wire::{
            agent::{NodeFacts, NodeSettings},
            node::NodeTemplate,
        },
    };

    fn spec() -> InstanceSpec {
        InstanceSpec {
            template: TemplateId::parse("t1").unwrap(),
            template_name: "t".into(),
            repository: "t".parse().unwrap(),
            tag: "v1".into(),
            version: 0,
            manifest: Digest::of(b""),
            arch: Some(Arch::Arm64),
            layers: Vec::new(),
            node: None,
            group_id: String::new(),
            permission_group: String::new(),
            priority: 1000,
            name_template: String::new(),
            vcpu: None,
            vram: None,
            mac_address: String::new(),
            vlan: String::new(),
            usb_device: String::new(),
            network_mode: String::new(),
            disk: None,
            port_forwarding_override: None,
            devices: Default::default(),
            script: None,
        }
    }

    fn node(runs: &[Arch]) -> NodeRecord {
        NodeRecord {
            id: NodeId::parse("n1").unwrap(),
            settings: NodeSettings {
                version: 1,
                name: "n1".into(),
                host: "h".into(),
                capacity: 2,
                capacity_mode: Default::default(),
                drain_mode: false,
                disable_central_logging: false,
            },
            vcpu_override: 0,
            ram_override: 0,
            groups: vec!["macs".into()],
            group_ids: Vec::new(),
            caller_groups: Vec::new(),
            force_overrides: false,
            fixed: Default::default(),
            facts: NodeFacts {
                host_arch: Arch::Amd64,
                runs: runs.to_vec(),
                driver: "process".into(),
                hypervisor: Default::default(),
                agent_version: String::new(),
                cpu_count: 1,
                memory: 0,
                disk_size: 0,
                disk_free: 0,
                disk_used: 0,
                templates: vec![NodeTemplate { uuid: "t1".into(), name: "t".into(), tag: "v1".into() }],
                layers: Default::default(),
                cpu_util: 0.0,
                ram_util: 0.0,
                usb_devices: vec!["iPad".into()],
                commands: Vec::new(),
            },
            joined: Timestamp::NEVER,
            reported: Timestamp::NEVER,
            absence: None,
            confirmed: false,
        }
    }

    fn free(node: &NodeRecord) -> Candidate<'_> {
        Candidate {
            node,
            present: true,
            taken: 0,
            kept: 0,
            pulling: false,
            updating: false,
            room: None,
            usb_busy: false,
        }
    }

    #[test]
    fn what_the_driver_runs_decides_and_not_the_machine() {
        let (both, none) = (node(&[Arch::Arm64, Arch::Amd64]), node(&[Arch::Amd64]));
        assert_eq!(fits(&spec(), free(&both), Grouped::Member), Ok(()));
        assert_eq!(fits(&spec(), free(&none), Grouped::Member), Err(Misfit::Architecture));
        let unknown = InstanceSpec { arch: None, ..spec() };
        assert_eq!(
            fits(&unknown, free(&none), Grouped::Fallback),
            Ok(()),
            "a template that does not say runs anywhere"
        );
    }

    #[test]
    fn each_thing_that_is_in_the_way_is_named() {
        let here = node(&[Arch::Arm64]);
        let drained = {
            let mut node = here.clone();
            node.settings.drain_mode = true;
            node
        };
        let plain = free(&here);
        let pinned = InstanceSpec { node: Some(NodeId::parse("n7").unwrap()), ..spec() };
        let grouped = InstanceSpec { group_id: "linux".into(), ..spec() };
        let usb = InstanceSpec { usb_device: "iPhone".into(), ..spec() };
        let cases = [
            (spec(), None, "no node has joined"),
            (pinned, Some(plain), "no node `n7` has joined"),
            (grouped, Some(plain), "in group `linux`"),
            (usb, Some(plain), "USB device `iPhone`"),
            (spec(), Some(Candidate { present: false, ..plain }), "reporting"),
            (spec(), Some(free(&drained)), "drain mode"),
            (spec(), Some(Candidate { taken: 2, ..plain }), "has room"),
            (spec(), Some(Candidate { pulling: true, ..plain }), "pulling a template"),
            (spec(), Some(Candidate { updating: true, ..plain }), "its agent is being replaced"),
            (InstanceSpec { usb_device: "iPad".into(), ..spec() }, Some(plain), "soon"),
            (
                InstanceSpec { usb_device: "iPad".into(), ..spec() },
                Some(Candidate { usb_busy: true, ..plain }),
                "USB device `iPad` is another VM's",
            ),
            (spec(), Some(plain), "soon"),
        ];
        for (spec, candidate, expected) in cases {
            let grouped = if spec.group_id.is_empty() { Grouped::Member } else { Grouped::Outside };
            let why = why_waiting(&spec, candidate.into_iter().map(|one| (one, grouped)), |_| false);
            assert!(why.contains(expected), "`{why}` does not say `{expected}`");
        }
    }

    #[test]
    fn the_reason_is_that_of_the_node_nearest_to_fitting() {
        let (wrong, right) = (node(&[Arch::Amd64]), node(&[Arch::Arm64]));
        let full = Candidate { taken: 2, ..free(&right) };
        assert_eq!(
            why_waiting(&spec(), [free(&wrong), full].map(|one| (one, Grouped::Member)).into_iter(), |_| {
                false
            }),
            "no node that could run it has room"
        );
    }

    #[test]
    fn by_resources_a_start_fits_where_its_processors_and_memory_do() {
        let mut here = node(&[Arch::Arm64]);
        here.settings.capacity_mode = crate::wire::node::CapacityMode::Resource;
        (here.facts.cpu_count, here.facts.memory) = (4, 18 << 30);
        let limit = room::limit(&here).unwrap();
        assert_eq!(limit, Size { vcpu: 8, ram: 16 * 1024 }, "twice the cores, all but 2 GB");
        let sizes = Sizes::default();
        let at = |taken: Size| Candidate { room: Some(Room { sizes: &sizes, limit, taken }), ..free(&here) };
        // Of unknown size it counts as one of two places.
        let half = Size { vcpu: 4, ram: 8 * 1024 };
        assert_eq!(fits(&spec(), at(half), Grouped::Member), Ok(()));
        assert_eq!(fits(&spec(), at(Size { vcpu: 5, ..half }), Grouped::Member), Err(Misfit::Full));
        assert_eq!(fits(&spec(), at(Size { ram: half.ram + 1, ..half }), Grouped::Member), Err(Misfit::Full));
        // More VMs than places, if they are small; what a start asks for counts only where the agent says so.
        let small = InstanceSpec { vcpu: Some(1), vram: Some(512), ..spec() };
        let nearly = Candidate { taken: 9, ..at(Size { vcpu: 7, ram: 15 * 1024 }) };
        assert_eq!(fits(&small, nearly, Grouped::Member), Err(Misfit::Full));
        let forced = NodeRecord { force_overrides: true, ..here.clone() };
        let nearly = Candidate { node: &forced, ..nearly };
        assert_eq!(fits(&small, nearly, Grouped::Member), Ok(()));
        let (vcpu, ram) = (Some(9), Some(20_000));
        let large = InstanceSpec { vcpu, vram: ram, ..spec() };
        let empty = Candidate { node: &forced, ..at(Size::default()) };
        assert_eq!(fits(&large, empty, Grouped::Member), Err(Misfit::Full));
        assert!(!empty.room.unwrap().could_have(&large, &forced));
        // It is said in processors and memory, and whether waiting helps.
        let why = |spec: &InstanceSpec, one: Candidate<'_>, reserved: bool| {
            let told = Misfit::Full.about(spec, one);
            (told, why_waiting(spec, [(one, Grouped::Member)].into_iter(), |_| reserved))
        };
        let (told, waits) = why(&large, empty, false);
        assert!(told.contains("can never have room: the start needs 9 processors and 20000 MB"), "{told}");
        assert!(told.contains("8 processors and 16384 MB together"), "{told}");
        assert!(waits.contains("more processors or memory than any node"), "{waits}");
        let (told, waits) = why(&spec(), at(Size { vcpu: 5, ..half }), false);
        assert!(
            told.contains("needs 4 processors and 8192 MB of memory, 5 of 8 processors and 8192 of 16384 MB"),
            "{told}"
        );
        assert!(waits.contains("has room"), "{waits}");
        assert!(Misfit::Full.of_node(at(half)).contains("4 of 8 processors"));
        let (_, waits) = why(&spec(), at(half), true);
        assert!(waits.contains("kept free for a start that needs more"), "{waits}");
        // An operator's words count before what the machine has.
        let told = NodeRecord { vcpu_override: 12, ram_override: 24, ..forced.clone() };
        let limit = room::limit(&told).unwrap();
        assert_eq!(limit, Size { vcpu: 12, ram: 24 * 1024 });
        let room = Some(Room { sizes: &sizes, limit, taken: Size::default() });
        assert_eq!(fits(&large, Candidate { node: &told, room, ..empty }, Grouped::Member), Ok(()));
    }

    #[test]
    fn a_template_counts_as_there_only_with_its_tag() {
        let here = node(&[Arch::Arm64]);
        assert!(has_template(&spec(), &here));
        assert!(!has_template(&InstanceSpec { tag: "v2".into(), ..spec() }, &here));
    }

    #[test]
    fn of_shared_layers_the_bytes_count_that_are_there() {
        let id = |layer: &[u8]| LayerId::of(&Digest::of(layer));
        let mut here = node(&[Arch::Arm64]);
        let next = InstanceSpec { layers: vec![id(b"base"), id(b"tools"), id(b"top")], ..spec() };
        assert_eq!(layers_there(&next, &here), 0, "an agent of an earlier version tells of none");
        here.facts.layers = [(id(b"base"), 1 << 40), (id(b"top"), u64::MAX), (id(b"else"), 7)].into();
        assert_eq!(layers_there(&next, &here), u64::MAX, "whatever sizes a node tells");
        here.facts.layers.remove(&id(b"top"));
        assert_eq!(layers_there(&next, &here), 1 << 40);
        assert_eq!(layers_there(&spec(), &here), 0, "a start of an earlier version names none");
    }
}
