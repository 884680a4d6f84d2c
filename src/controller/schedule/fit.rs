//! Whether a node may get a start, and in words why none does.

use crate::{
    controller::records::{InstanceSpec, NodeRecord},
    model::NodeId,
};

/// A node as scheduling sees it.
#[derive(Debug, Clone, Copy)]
pub struct Candidate<'a> {
    /// Its record.
    pub node: &'a NodeRecord,
    /// It reports.
    pub present: bool,
    /// Places taken by what the controllers gave it.
    pub taken: u32,
    /// It pulls a template: it takes nothing else meanwhile.
    pub pulling: bool,
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
    /// It pulls a template.
    Pulling,
}

/// Whether the node could ever run it.
pub fn suits(spec: &InstanceSpec, node: &NodeRecord) -> Result<(), Misfit> {
    if spec.node.as_ref().is_some_and(|wanted| *wanted != node.id) {
        return Err(Misfit::OtherNode);
    }
    if spec.arch.is_some_and(|arch| !node.facts.runs.contains(&arch)) {
        return Err(Misfit::Architecture);
    }
    if !spec.group_id.is_empty() && !node.groups.contains(&spec.group_id) {
        return Err(Misfit::Group);
    }
    if !spec.usb_device.is_empty() {
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
    if candidate.taken >= candidate.node.settings.capacity {
        return Err(Misfit::Full);
    }
    if candidate.pulling {
        return Err(Misfit::Pulling);
    }
    Ok(())
}

/// Whether the node may get this start now.
pub fn fits(spec: &InstanceSpec, candidate: Candidate<'_>) -> Result<(), Misfit> {
    suits(spec, candidate.node)?;
    takes_starts(candidate)
}

/// Whether the template is on the node's disk.
pub fn has_template(spec: &InstanceSpec, node: &NodeRecord) -> bool {
    node.facts.templates.iter().any(|t| t.uuid == spec.template.as_str() && t.tag == spec.tag)
}

/// Why a start waits: what the nearest of these nodes lacks.
pub fn why_waiting<'a>(spec: &InstanceSpec, candidates: impl Iterator<Item = Candidate<'a>>) -> String {
    let mut nearest = None;
    let mut count = 0;
    for candidate in candidates {
        count += 1;
        match fits(spec, candidate) {
            Ok(()) => return "a node will take it soon".into(),
            Err(misfit) => nearest = nearest.max(Some(misfit)),
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
        (Some(Misfit::Group), _) => format!("no node that could run it is in group `{}`", spec.group_id),
        (Some(Misfit::Usb), _) => format!("no node that could run it has USB device `{}`", spec.usb_device),
        (Some(Misfit::Silent), None) => "no node that could run it is reporting".into(),
        (Some(Misfit::Silent), Some(node)) => format!("node `{node}` is not reporting"),
        (Some(Misfit::Drained), None) => "no node that could run it takes starts: drain mode".into(),
        (Some(Misfit::Drained), Some(node)) => format!("node `{node}` takes no starts: drain mode"),
        (Some(Misfit::Full), None) => "no node that could run it has room".into(),
        (Some(Misfit::Full), Some(node)) => format!("node `{node}` has no room"),
        (Some(Misfit::Pulling), None) => "no node that could run it is free: pulling a template".into(),
        (Some(Misfit::Pulling), Some(node)) => format!("node `{node}` is pulling a template"),
    }
}
