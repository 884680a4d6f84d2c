//! Answers of the admin API against `docs/openapi.json`: each that a test asks for must be as that says, without a field
//! that it does not know.

use std::{
    collections::BTreeSet,
    sync::{LazyLock, Mutex},
};

use serde_json::Value;

static DOCUMENT: LazyLock<Value> =
    LazyLock::new(|| serde_json::from_str(include_str!("../../docs/openapi.json")).expect("JSON"));

/// Fields that had a value in some answer that was looked at so far: `Schema.field`.
static SEEN: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// Panics if an answer is another one than the document says. What it does not speak of is let by.
pub fn check(request: &str, status: u16, kind: &str, body: &[u8]) {
    let mut words = request.split(' ');
    let method = words.next().unwrap_or_default().to_ascii_lowercase();
    let path = words.next().unwrap_or_default().split('?').next().unwrap_or_default();
    let Some(answers) = call(&method, path) else { return };
    let statuses = &answers["responses"];
    let Some(answer) = statuses.get(status.to_string()) else {
        // Every call may be refused for what it is, and none says so: too long, cut off.
        assert!(matches!(status, 400 | 408 | 413 | 415), "{method} {path}: no {status} in docs/openapi.json");
        return;
    };
    let kind = kind.split(';').next().unwrap_or_default();
    let Some(content) = answer["content"].get(kind) else {
        panic!("{method} {path}: {status} is not {kind:?} in docs/openapi.json");
    };
    if kind == "application/json" {
        let value = serde_json::from_slice(body).expect("JSON");
        let mut seen = BTreeSet::new();
        if let Err(why) = fits(&content["schema"], &value, "", &mut seen) {
            panic!("{method} {path}: {why}; the answer was\n{value:#}");
        }
        SEEN.lock().expect("no panic under it").extend(seen);
    }
}

/// Every field of every schema that answers have.
pub fn fields() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let schemas = DOCUMENT["components"]["schemas"].as_object().expect("schemas");
    for (name, schema) in schemas {
        let properties = schema["properties"].as_object().into_iter().flatten();
        found.extend(properties.map(|(field, _)| format!("{name}.{field}")));
    }
    found
}

/// Those that had a value so far.
pub fn seen() -> BTreeSet<String> {
    SEEN.lock().expect("no panic under it").clone()
}

/// Each call: its methods, in capitals, and its path.
pub fn calls() -> Vec<(Vec<String>, String)> {
    let paths = DOCUMENT["paths"].as_object().expect("paths").iter();
    let methods =
        |of: &Value| of.as_object().expect("methods").keys().map(|m| m.to_ascii_uppercase()).collect();
    paths.map(|(path, of)| (methods(of), path.clone())).collect()
}

fn call<'d>(method: &str, path: &str) -> Option<&'d Value> {
    let is = |known: &str| {
        let (known, asked): (Vec<&str>, Vec<&str>) = (known.split('/').collect(), path.split('/').collect());
        known.len() == asked.len() && known.iter().zip(asked).all(|(k, a)| k.starts_with('{') || *k == a)
    };
    let paths = DOCUMENT["paths"].as_object().expect("paths");
    // What is spelt out goes before what may be anything.
    let exact = paths.get(path);
    exact.or_else(|| paths.iter().find(|(known, _)| is(known)).map(|(_, of)| of))?.get(method)
}

fn fits(schema: &Value, value: &Value, at: &str, seen: &mut BTreeSet<String>) -> Result<(), String> {
    fits_named(schema, value, at, None, seen)
}

fn fits_named(
    schema: &Value,
    value: &Value,
    at: &str,
    name: Option<&str>,
    seen: &mut BTreeSet<String>,
) -> Result<(), String> {
    if let Some(reference) = schema["$ref"].as_str() {
        let name = reference.rsplit('/').next().unwrap_or_default();
        let found = &DOCUMENT["components"]["schemas"][name];
        if found.is_null() {
            return Err(format!("`{at}`: there is no schema {name}"));
        }
        return fits_named(found, value, at, Some(name), seen);
    }
    for word in ["oneOf", "anyOf"] {
        if let Some(ways) = schema[word].as_array() {
            let mut whys = Vec::new();
            for way in ways {
                let mut of_way = BTreeSet::new();
                match fits_named(way, value, at, name, &mut of_way) {
                    Ok(()) => {
                        seen.extend(of_way);
                        return Ok(());
                    }
                    Err(why) => whys.push(why),
                }
            }
            return Err(whys.join("; or "));
        }
    }
    if let Some(all) = schema["allOf"].as_array() {
        return all.iter().try_for_each(|one| fits_named(one, value, at, name, seen));
    }
    let types: Vec<&str> = match &schema["type"] {
        Value::String(one) => vec![one],
        Value::Array(several) => several.iter().filter_map(Value::as_str).collect(),
        // Anything.
        _ => return Ok(()),
    };
    let is = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) if types.contains(&"integer") => "integer",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    if !types.contains(&is) {
        return Err(format!("`{at}` is {is}, not {types:?}"));
    }
    if let Some(words) = schema["enum"].as_array()
        && !words.contains(value)
    {
        return Err(format!("`{at}` is {value}, none of {words:?}"));
    }
    match value {
        Value::Array(items) => {
            let firsts = schema["prefixItems"].as_array();
            for (place, item) in items.iter().enumerate() {
                let of = firsts.and_then(|firsts| firsts.get(place)).unwrap_or(&schema["items"]);
                fits_named(of, item, &format!("{at}[{place}]"), None, seen)?;
            }
            Ok(())
        }
        Value::Object(keys) => {
            let Some(properties) = schema["properties"].as_object() else { return Ok(()) };
            for (key, value) in keys {
                let Some(property) = properties.get(key) else {
                    return Err(format!("`{at}.{key}` is not known"));
                };
                fits_named(property, value, &format!("{at}.{key}"), None, seen)?;
                let is_empty = value.is_null() || value.as_array().is_some_and(Vec::is_empty);
                if let Some(name) = name.filter(|_| !is_empty) {
                    seen.insert(format!("{name}.{key}"));
                }
            }
            let required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
            match required.into_iter().find(|key| !keys.contains_key(*key)) {
                Some(missing) => Err(format!("`{at}.{missing}` is missing")),
                None => Ok(()),
            }
        }
        _ => Ok(()),
    }
}
