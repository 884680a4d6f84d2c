//! The shapes of the public API as the reference writes them (`reference/controller-api.md` §4 and §5), as data,
//! and a checker that names every way in which an answer is something else.

use serde_json::Value;

/// What a field holds.
#[derive(Debug, Clone, Copy)]
pub enum Is {
    Text,
    /// A text that is not empty.
    Given,
    /// One of these.
    Word(&'static [&'static str]),
    /// A whole number from 0 on, written without fraction or exponent.
    Count,
    /// Any whole number.
    Number,
    /// 0 to 1; 0 and 1 without a fraction, because one client reads them as whole numbers.
    Share,
    /// 0 to 1, written as any number.
    Ratio,
    /// Any number from 0 on.
    Decimal,
    Flag,
    /// RFC 3339.
    Time,
    /// An object with any keys.
    Map,
    Object(&'static [Field]),
    /// Never null, unless the reference says so.
    List(&'static [Field]),
    TextOrNull,
    Texts,
}

/// A field: its name, what it holds, and whether it is always there.
#[derive(Debug, Clone, Copy)]
pub struct Field(pub &'static str, pub Is, pub bool);

const ALWAYS: bool = true;
const MAYBE: bool = false;
const ARCH: Is = Is::Word(&["amd64", "arm64"]);

/// §4.2, one element of the list.
pub const LISTED: &[Field] = &[
    Field("instance_id", Is::Given, ALWAYS),
    Field("external_id", Is::TextOrNull, MAYBE),
    Field("name", Is::TextOrNull, MAYBE),
    Field("vm", Is::Object(INSTANCE), ALWAYS),
];

/// §4.3.
pub const INSTANCE: &[Field] = &[
    Field("instance_id", Is::Given, MAYBE),
    Field(
        "instance_state",
        Is::Word(&[
            "Scheduling",
            "Pulling",
            "Started",
            "Stopping",
            "Stopped",
            "Terminating",
            "Terminated",
            "Error",
            "Pushing",
        ]),
        ALWAYS,
    ),
    Field("message", Is::Text, MAYBE),
    Field("anka_registry", Is::Text, ALWAYS),
    Field("vmid", Is::Given, ALWAYS),
    Field("tag", Is::Text, MAYBE),
    Field("version", Is::Count, MAYBE),
    Field("vminfo", Is::Object(VM_INFO), MAYBE),
    Field("node_id", Is::Text, MAYBE),
    Field("inflight_reqid", Is::Text, MAYBE),
    Field("ts", Is::Time, ALWAYS),
    Field("cr_time", Is::Time, ALWAYS),
    Field("progress", Is::Share, ALWAYS),
    Field("group_id", Is::Text, ALWAYS),
    Field("name", Is::Text, MAYBE),
    Field("external_id", Is::Text, MAYBE),
    Field("metadata", Is::Map, MAYBE),
    Field("mac_address", Is::Text, MAYBE),
    Field("arch", ARCH, MAYBE),
    Field("vlan", Is::Text, ALWAYS),
    Field("usb_device", Is::Text, ALWAYS),
    Field("startup_script", Is::Object(SCRIPT), MAYBE),
];

const SCRIPT: &[Field] = &[
    Field("return_code", Is::Number, ALWAYS),
    Field("did_timeout", Is::Flag, ALWAYS),
    Field("stdout", Is::Text, ALWAYS),
    Field("stderr", Is::Text, ALWAYS),
    Field("errors", Is::Texts, MAYBE),
];

/// §4.4.
pub const VM_INFO: &[Field] = &[
    Field("uuid", Is::Given, ALWAYS),
    Field("name", Is::Given, ALWAYS),
    Field("status", Is::Word(&["running", "stopped", "suspended", "failed", "deleted"]), ALWAYS),
    Field("version", Is::Text, MAYBE),
    Field("creation_date", Is::Time, MAYBE),
    Field("access_date", Is::Time, MAYBE),
    Field("start_date", Is::Time, MAYBE),
    Field("stop_date", Is::Time, MAYBE),
    Field("timestamp", Is::Time, MAYBE),
    Field("cpu_cores", Is::Count, ALWAYS),
    Field("ram", Is::Given, ALWAYS),
    Field("node_id", Is::Given, ALWAYS),
    Field("host_ip", Is::Text, ALWAYS),
    Field("ip", Is::Text, ALWAYS),
    Field("vnc_port", Is::Count, MAYBE),
    Field("port_forwarding", Is::List(PORT), MAYBE),
];

const PORT: &[Field] = &[
    Field("guest_port", Is::Count, ALWAYS),
    Field("host_port", Is::Count, ALWAYS),
    Field("protocol", Is::Given, ALWAYS),
    Field("name", Is::Text, ALWAYS),
];

/// §5.1.
pub const NODE: &[Field] = &[
    Field("node_id", Is::Given, ALWAYS),
    Field("node_name", Is::Given, ALWAYS),
    Field("cpu_count", Is::Count, ALWAYS),
    Field("ram", Is::Count, ALWAYS),
    Field("vm_count", Is::Count, ALWAYS),
    Field("vcpu_count", Is::Count, ALWAYS),
    Field("vram", Is::Count, ALWAYS),
    Field("cpu_util", Is::Ratio, ALWAYS),
    Field("ram_util", Is::Ratio, ALWAYS),
    Field("ip_address", Is::Given, ALWAYS),
    Field(
        "state",
        Is::Word(&["Active", "Offline", "Inactive (Invalid License)", "Updating", "Unhealthy", "Drain Mode"]),
        ALWAYS,
    ),
    Field("capacity", Is::Count, ALWAYS),
    Field("groups", Is::List(&[]), MAYBE),
    Field("anka_version", Is::Map, ALWAYS),
    Field("usb_devices", Is::List(&[]), MAYBE),
    Field("capacity_mode", Is::Word(&["number", "resource"]), ALWAYS),
    Field("vcpu_override", Is::Count, ALWAYS),
    Field("ram_override", Is::Count, ALWAYS),
    Field("disk_size", Is::Count, ALWAYS),
    Field("free_disk_space", Is::Count, ALWAYS),
    Field("anka_disk_usage", Is::Count, ALWAYS),
    Field("host_arch", ARCH, ALWAYS),
    Field("templates", Is::List(NODE_TEMPLATE), ALWAYS),
    Field("last_updated", Is::Time, ALWAYS),
    Field("timestamp", Is::Count, ALWAYS),
    Field("agent_version", Is::Given, ALWAYS),
];

const NODE_TEMPLATE: &[Field] =
    &[Field("uuid", Is::Given, ALWAYS), Field("name", Is::Text, ALWAYS), Field("tag", Is::Text, ALWAYS)];

/// §3.
pub const STATUS: &[Field] = &[
    Field("status", Is::Word(&["Running"]), ALWAYS),
    Field("version", Is::Given, ALWAYS),
    Field("registry_address", Is::Text, ALWAYS),
    Field("registry_status", Is::Word(&["Running", "FAIL"]), ALWAYS),
    Field("license", Is::Word(&["basic", "enterprise", "enterprise plus"]), ALWAYS),
];

/// Panics with every way in which `value` is not of this shape.
#[track_caller]
pub fn assert_shape(value: &Value, shape: &[Field]) {
    let mut faults = Vec::new();
    object(value, shape, "", &mut faults);
    assert!(faults.is_empty(), "not the shape of the reference: {faults:#?}\nin {value:#}");
}

/// Every way in which `value` is not of this shape.
pub fn faults(value: &Value, shape: &[Field]) -> Vec<String> {
    let mut faults = Vec::new();
    object(value, shape, "", &mut faults);
    faults
}

fn object(value: &Value, shape: &[Field], at: &str, faults: &mut Vec<String>) {
    let Some(map) = value.as_object() else {
        faults.push(format!("{at} is {value}, not an object"));
        return;
    };
    for Field(name, is, always) in shape {
        match map.get(*name) {
            None if *always => faults.push(format!("{at}.{name} is missing")),
            None => {}
            Some(value) => field(value, *is, &format!("{at}.{name}"), faults),
        }
    }
    if !shape.is_empty() {
        let unknown = map.keys().filter(|k| !shape.iter().any(|Field(name, ..)| name == k));
        faults.extend(unknown.map(|k| format!("{at}.{k} is not in the reference")));
    }
}

fn field(value: &Value, is: Is, at: &str, faults: &mut Vec<String>) {
    let good = match is {
        Is::Text => value.is_string(),
        Is::TextOrNull => value.is_string() || value.is_null(),
        Is::Given => value.as_str().is_some_and(|text| !text.is_empty()),
        Is::Word(words) => value.as_str().is_some_and(|text| words.contains(&text)),
        Is::Count => value.is_u64(),
        Is::Share => value
            .as_f64()
            .is_some_and(|share| (0.0..=1.0).contains(&share) && (share.fract() != 0.0 || value.is_u64())),
        Is::Ratio => value.as_f64().is_some_and(|share| (0.0..=1.0).contains(&share)),
        Is::Decimal => value.as_f64().is_some_and(|number| number >= 0.0),
        Is::Flag => value.is_boolean(),
        Is::Time => value.as_str().is_some_and(|text| {
            time::OffsetDateTime::parse(text, &time::format_description::well_known::Rfc3339).is_ok()
        }),
        Is::Map => value.is_object(),
        Is::Number => value.is_i64() || value.is_u64(),
        Is::Texts => value.as_array().is_some_and(|all| all.iter().all(Value::is_string)),
        Is::Object(shape) => return object(value, shape, at, faults),
        Is::List(shape) => {
            let Some(items) = value.as_array() else {
                return faults.push(format!("{at} is {value}, not a list"));
            };
            for (n, item) in items.iter().enumerate() {
                object(item, shape, &format!("{at}[{n}]"), faults);
            }
            return;
        }
    };
    if !good {
        faults.push(format!("{at} is {value}, not {is:?}"));
    }
}
