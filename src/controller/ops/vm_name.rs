//! What a VM is called on its node.

use sha2::{Digest as _, Sha256};

use crate::{
    controller::records::InstanceRecord,
    model::{NodeId, Timestamp},
};

/// `name_template` with its words filled in, else the template's name. Either way with a stamp, at the end if it is not
/// asked for elsewhere by `$ts`: no two VMs of a node have one name.
pub(super) fn vm_name(record: &InstanceRecord, node_name: &str, now: Timestamp) -> String {
    let spec = &record.spec;
    let stamp = stamp(record, now);
    let plain = spec.template_name.replace('/', "-");
    if spec.name_template.is_empty() {
        return format!("{plain}-{stamp}");
    }
    // What is filled in is not looked through again: a node may be named `$ts`.
    let mut name = String::with_capacity(spec.name_template.len() + stamp.len() + 1);
    let (mut rest, mut stamped) = (spec.name_template.as_str(), false);
    while let Some(at) = rest.find('$') {
        let (before, word) = rest.split_at(at);
        name.push_str(before);
        let words = [
            ("$template_name", plain.as_str()),
            ("$template_id", spec.template.as_str()),
            ("$instance_id", record.id.as_str()),
            ("$node_name", node_name),
            ("$node_id", record.node().map_or("", NodeId::as_str)),
            ("$ts", stamp.as_str()),
        ];
        let known = words.iter().find(|(known, _)| word.starts_with(known));
        let (known, value) = known.copied().unwrap_or(("$", "$"));
        stamped |= known == "$ts";
        name.push_str(value);
        rest = word.get(known.len()..).unwrap_or_default();
    }
    name.push_str(rest);
    if stamped { name } else { format!("{name}-{stamp}") }
}

/// Nanoseconds of the Unix time in length. Its last six digits are those of the offer instead: two offers of one
/// millisecond, of one controller or of two, have different ones.
fn stamp(record: &InstanceRecord, now: Timestamp) -> String {
    let hash =
        Sha256::new().chain_update(record.id.as_str()).chain_update(record.attempt.to_be_bytes()).finalize();
    let own = hash.iter().take(4).fold(0_u32, |sum, byte| (sum << 8) | u32::from(*byte));
    format!("{}{:06}", now.unix_millis(), own % 1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        controller::{reconcile, records::Phase},
        model::InstanceId,
    };

    fn named(template: &str, id: &str, attempt: u32) -> String {
        let mut record =
            reconcile::tests::record(Phase::Offered { node: NodeId::parse("n-1").unwrap() }, attempt);
        record.id = InstanceId::parse(id).unwrap();
        record.spec.name_template = template.into();
        record.spec.template_name = "mac/sonoma".into();
        vm_name(&record, "$ts mini", Timestamp::parse("2026-01-04T09:10:11.123456789Z").unwrap())
    }

    #[test]
    fn a_name_is_filled_in_and_ends_in_a_stamp_unless_it_has_one() {
        let stamp = named("$ts", "i-1", 1);
        assert!(stamp.starts_with("1767517811123") && stamp.len() == 19, "{stamp}");
        for (template, expected) in [
            ("", "mac-sonoma-STAMP"),
            ("build", "build-STAMP"),
            ("$ts-build", "STAMP-build"),
            ("$template_name.$instance_id", "mac-sonoma.i-1-STAMP"),
            ("$node_id/$node_name", "n-1/$ts mini-STAMP"),
            ("$ $node $tss", "$ $node STAMPs"),
        ] {
            assert_eq!(named(template, "i-1", 1), expected.replace("STAMP", &stamp), "{template}");
        }
    }

    #[test]
    fn two_vms_of_one_moment_have_different_names() {
        for template in ["", "build", "$ts"] {
            let name = named(template, "i-1", 1);
            assert_ne!(name, named(template, "i-2", 1));
            assert_ne!(name, named(template, "i-1", 2), "nor those of two offers of one instance");
        }
    }
}
