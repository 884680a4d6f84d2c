//! What a start may ask of a VM's devices: each value as it has to be, and none that contradicts another.

use serde_json::{Map, Value};

use super::OpsError;
use crate::{
    model::{Arch, MacAddress},
    wire::{agent::Hardware, vm::StartVm},
};

/// Values that may be asked for, by key; the value of each is in [`words`].
const WORDS: [(&str, &[&str], &str); 5] = [
    ("network_mode", &["shared", "host", "bridge", "disconnected", "nat"], ""),
    ("video_controller", &["fbuf", "pg"], ""),
    ("hvapic", &["forceOn", "forceOff"], ""),
    ("csr_active_config", &["forceOn"], " (`forceOff` is no longer known to the vendor's VMs)"),
    ("network_local", &["forceOn", "forceOff"], ""),
];

/// Devices that only VMs of Intel's architecture have.
const OF_INTEL: [&str; 6] =
    ["video_controller", "hvapic", "csr_active_config", "hw_serial", "hw_uuid", "vnc_password"];

/// Most port rules of one start.
const RULES: usize = 64;

fn bad(why: impl Into<String>) -> OpsError {
    OpsError::BadInput(why.into())
}

/// What is given under each key with words of its own, and under those of [`OF_INTEL`].
fn words<'a>(ask: &'a StartVm, key: &str) -> Option<&'a str> {
    let given = match key {
        "network_mode" => &ask.network_mode,
        "video_controller" => &ask.video_controller,
        "hvapic" => &ask.hvapic,
        "csr_active_config" => &ask.csr_active_config,
        "network_local" => &ask.network_local,
        "hw_serial" => &ask.hw_serial,
        "hw_uuid" => &ask.hw_uuid,
        "vnc_password" => &ask.vnc_password,
        _ => return None,
    };
    given.as_deref()
}

/// Checked, in one spelling. `count` instances have it.
pub(super) fn check(ask: &StartVm, count: i64) -> Result<Hardware, OpsError> {
    for (key, known, more) in WORDS {
        if let Some(given) = words(ask, key)
            && !known.contains(&given)
        {
            let given: String = given.chars().take(64).collect();
            return Err(bad(format!("{key} is `{given}`; it must be one of {}{more}", known.join(", "))));
        }
    }
    let mac = match ask.mac_address.as_deref() {
        None => String::new(),
        Some(_) if count > 1 => {
            return Err(bad(format!("mac_address names one address, and count is {count}")));
        }
        Some(text) => {
            let mac: MacAddress = text.parse().map_err(|error| bad(format!("mac_address: {error}")))?;
            mac.to_string()
        }
    };
    let vlan = match ask.vlan_tag.as_deref() {
        None => String::new(),
        Some(text) => match text.trim().parse::<u16>() {
            Ok(tag @ 1..=4094) => tag.to_string(),
            _ => {
                let text: String = text.chars().take(64).collect();
                return Err(bad(format!("vlan_tag is `{text}`; it must be a number from 1 to 4094")));
            }
        },
    };
    if let (Some(mode), false) = (ask.network_mode.as_deref(), vlan.is_empty())
        && mode != "bridge"
    {
        return Err(bad(format!("vlan_tag needs network_mode `bridge`, and it is `{mode}`")));
    }
    if let Some(uuid) = ask.hw_uuid.as_deref()
        && uuid.parse::<uuid::Uuid>().is_err()
    {
        return Err(bad("hw_uuid is no UUID; write it like `564D2E6C-0F2B-4F0A-9E6B-2B1B5C3A7D10`"));
    }
    let text = |given: &Option<String>| given.clone().unwrap_or_default();
    Ok(Hardware {
        mac_address: mac,
        vlan_tag: vlan,
        network_mode: text(&ask.network_mode),
        disk: ask.disk.as_ref().map(disk).transpose()?.flatten(),
        port_forwarding_override: ask.port_forwarding_override.as_deref().map(rules).transpose()?,
        video_controller: text(&ask.video_controller),
        hvapic: text(&ask.hvapic),
        csr_active_config: text(&ask.csr_active_config),
        network_local: text(&ask.network_local),
        hw_serial: text(&ask.hw_serial),
        hw_uuid: text(&ask.hw_uuid),
        vnc_password: text(&ask.vnc_password),
        usb_device: text(&ask.usb_device),
    })
}

/// Refuses what VMs of the template's architecture do not have.
pub(super) fn of_arch(ask: &StartVm, arch: Option<Arch>) -> Result<(), OpsError> {
    if arch != Some(Arch::Arm64) {
        return Ok(());
    }
    match OF_INTEL.into_iter().find(|key| words(ask, key).is_some()) {
        Some(key) => Err(bad(format!("{key} is for VMs of Intel's architecture, and the template is arm64"))),
        None => Ok(()),
    }
}

/// `{size, skip_container_resize}`; nothing when the size is empty, as one client always sends it.
fn disk(given: &Map<String, Value>) -> Result<Option<Map<String, Value>>, OpsError> {
    let size = match given.get("size") {
        None | Some(Value::Null) => "",
        Some(Value::String(text)) => text.trim(),
        Some(_) => return Err(bad("disk.size must be a text, like `80G`")),
    };
    let skip = match given.get("skip_container_resize") {
        None | Some(Value::Null) => false,
        Some(Value::Bool(skip)) => *skip,
        Some(Value::String(text)) if matches!(text.as_str(), "" | "false" | "0") => false,
        Some(Value::String(text)) if matches!(text.as_str(), "true" | "1") => true,
        Some(_) => return Err(bad("disk.skip_container_resize must be true or false")),
    };
    if size.is_empty() {
        return match skip {
            true => Err(bad("disk.size is required with disk.skip_container_resize")),
            false => Ok(None),
        };
    }
    let digits = size.strip_suffix(['T', 'G', 'M', 'K', 't', 'g', 'm', 'k']).unwrap_or_default();
    if !digits.parse::<u32>().is_ok_and(|n| n > 0) || digits.starts_with('+') {
        let size: String = size.chars().take(64).collect();
        return Err(bad(format!(
            "disk.size is `{size}`; it must be a whole number with T, G, M or K, like `80G`"
        )));
    }
    let mut disk = Map::new();
    disk.insert("size".into(), size.to_ascii_uppercase().into());
    disk.insert("skip_container_resize".into(), skip.into());
    Ok(Some(disk))
}

/// `[{name, guest_port, host_ip, host_port}]`. An empty list is one that takes every rule away.
fn rules(given: &[Map<String, Value>]) -> Result<Vec<Map<String, Value>>, OpsError> {
    if given.len() > RULES {
        return Err(bad(format!("port_forwarding_override has {} rules, the most is {RULES}", given.len())));
    }
    let mut rules: Vec<Map<String, Value>> = Vec::with_capacity(given.len());
    for (n, rule) in given.iter().enumerate() {
        let at = |key: &str| format!("port_forwarding_override[{n}].{key}");
        let text = |key: &str| match rule.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.trim().to_owned()).filter(|text| !text.is_empty())),
            Some(Value::Number(number)) => Ok(Some(number.to_string())),
            Some(_) => Err(bad(format!("{} must be a text", at(key)))),
        };
        let port = |key: &str| match text(key)? {
            None => Ok(None),
            Some(text) => match text.parse::<u16>() {
                Ok(1..) => Ok(Some(text)),
                _ => {
                    let text: String = text.chars().take(64).collect();
                    Err(bad(format!("{} is `{text}`; it must be a port from 1 to 65535", at(key))))
                }
            },
        };
        let name = text("name")?.ok_or_else(|| bad(format!("{} is required", at("name"))))?;
        let guest = port("guest_port")?.ok_or_else(|| bad(format!("{} is required", at("guest_port"))))?;
        let mut next = Map::new();
        next.insert("name".into(), name.into());
        next.insert("guest_port".into(), guest.into());
        if let Some(ip) = text("host_ip")? {
            if ip.parse::<std::net::IpAddr>().is_err() {
                return Err(bad(format!("{} is no IP address", at("host_ip"))));
            }
            next.insert("host_ip".into(), ip.into());
        }
        if let Some(host) = port("host_port")? {
            let same = |other: &Map<String, Value>| {
                other.get("host_port").and_then(Value::as_str) == Some(&host)
                    && other.get("host_ip") == next.get("host_ip")
            };
            if rules.iter().any(same) {
                return Err(bad(format!("{} is {host}, which another rule has too", at("host_port"))));
            }
            next.insert("host_port".into(), host.into());
        }
        rules.push(next);
    }
    Ok(rules)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn ask(more: Value) -> StartVm {
        serde_json::from_value(more).unwrap()
    }

    fn checked(more: Value) -> Result<Hardware, String> {
        check(&ask(more), 1).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_right_is_taken_in_one_spelling() {
        let all = checked(json!({
            "mac_address": "02:00:5e:10:00:0a", "vlan_tag": 7, "network_mode": "bridge",
            "disk": { "size": "80g", "skip_container_resize": "true" },
            "port_forwarding_override": [
                { "name": "ssh", "guest_port": 22, "host_port": "" },
                { "name": "vnc", "guest_port": "5900", "host_ip": "127.0.0.1", "host_port": 10000 },
                { "name": "alt", "guest_port": "5901", "host_port": "10000" },
            ],
            "video_controller": "pg", "hvapic": "forceOff", "csr_active_config": "forceOn", "network_local": "forceOn",
            "hw_serial": "C02", "hw_uuid": "564D2E6C-0F2B-4F0A-9E6B-2B1B5C3A7D10", "vnc_password": "verySecret",
        }))
        .unwrap();
        assert_eq!((all.mac_address.as_str(), all.vlan_tag.as_str()), ("02:00:5E:10:00:0A", "7"));
        assert_eq!(
            Value::Object(all.disk.clone().unwrap()),
            json!({ "size": "80G", "skip_container_resize": true })
        );
        let rules = all.port_forwarding_override.clone().unwrap();
        assert_eq!(Value::Object(rules[0].clone()), json!({ "name": "ssh", "guest_port": "22" }));
        assert_eq!(rules[1]["host_port"], "10000");
        assert_eq!(all.asked().len(), 12, "{all:?}");
    }

    #[test]
    fn empty_is_not_given_and_an_empty_list_is_no_rule_at_all() {
        let none = json!({
            "mac_address": "", "vlan_tag": "", "network_mode": "", "disk": { "size": "" }, "hvapic": null,
            "vnc_password": "", "hw_uuid": "",
        });
        assert!(checked(none).unwrap().is_empty());
        assert_eq!(
            checked(json!({ "port_forwarding_override": [] })).unwrap().port_forwarding_override,
            Some(vec![])
        );
    }

    #[test]
    fn what_is_wrong_or_contradicts_itself_is_named() {
        for (more, expected) in [
            (json!({ "mac_address": "x" }), "mac_address: it must be six pairs"),
            (json!({ "mac_address": "01:00:00:00:00:00" }), "mac_address: its first byte is odd"),
            (json!({ "vlan_tag": "0" }), "vlan_tag is `0`; it must be a number from 1 to 4094"),
            (json!({ "vlan_tag": "4095" }), "vlan_tag is `4095`"),
            (json!({ "vlan_tag": "7", "network_mode": "shared" }), "vlan_tag needs network_mode `bridge`"),
            (json!({ "network_mode": "wifi" }), "network_mode is `wifi`; it must be one of shared, host"),
            (json!({ "video_controller": "vga" }), "must be one of fbuf, pg"),
            (json!({ "hvapic": "on" }), "must be one of forceOn, forceOff"),
            (json!({ "csr_active_config": "forceOff" }), "no longer known"),
            (json!({ "network_local": "1" }), "network_local is `1`"),
            (json!({ "hw_uuid": "x" }), "hw_uuid is no UUID"),
            (json!({ "disk": { "size": "80" } }), "disk.size is `80`; it must be"),
            (json!({ "disk": { "size": "0G" } }), "disk.size is `0G`"),
            (json!({ "disk": { "size": "+8G" } }), "disk.size is `+8G`"),
            (json!({ "disk": { "size": 80 } }), "disk.size must be a text"),
            (json!({ "disk": { "skip_container_resize": true } }), "disk.size is required"),
            (json!({ "disk": { "size": "8G", "skip_container_resize": 7 } }), "true or false"),
            (json!({ "port_forwarding_override": [{ "guest_port": "22" }] }), "[0].name is required"),
            (json!({ "port_forwarding_override": [{ "name": "a" }] }), "[0].guest_port is required"),
            (
                json!({ "port_forwarding_override": [{ "name": "a", "guest_port": "70000" }] }),
                "[0].guest_port is `70000`; it must be a port",
            ),
            (
                json!({ "port_forwarding_override": [{ "name": "a", "guest_port": 1, "host_ip": "x" }] }),
                "host_ip is no IP address",
            ),
            (
                json!({ "port_forwarding_override": [
                    { "name": "a", "guest_port": 1, "host_port": 9 }, { "name": "b", "guest_port": 2, "host_port": "9" },
                ] }),
                "[1].host_port is 9, which another rule has too",
            ),
        ] {
            let said = checked(more.clone()).unwrap_err();
            assert!(said.contains(expected), "{more}: {said}");
        }
        let two = check(&ask(json!({ "mac_address": "02:00:00:00:00:01" })), 2).unwrap_err().to_string();
        assert!(two.contains("count is 2"), "{two}");
    }

    #[test]
    fn what_only_intel_has_is_refused_for_the_other_architecture() {
        let intel = ask(json!({ "vnc_password": "verySecret" }));
        assert!(of_arch(&intel, Some(Arch::Amd64)).is_ok() && of_arch(&intel, None).is_ok());
        let said = of_arch(&intel, Some(Arch::Arm64)).unwrap_err().to_string();
        assert!(said.contains("vnc_password is for VMs of Intel") && !said.contains("verySecret"), "{said}");
        assert!(of_arch(&ask(json!({ "network_mode": "nat" })), Some(Arch::Arm64)).is_ok());
    }
}
