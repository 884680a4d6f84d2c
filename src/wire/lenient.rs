//! Readers for sloppy clients: numbers as strings, empty strings and empty objects as "not given".
//!
//! Use with `#[serde(default, deserialize_with = "lenient::…")]`.

use serde::{Deserialize, Deserializer, de::DeserializeOwned, de::Error as _};
use serde_json::{Map, Value};

use crate::model::Arch;

fn given<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Value>, D::Error> {
    Ok(match Value::deserialize(from)? {
        Value::Null => None,
        Value::String(text) if text.is_empty() => None,
        Value::Object(map) if map.is_empty() => None,
        other => Some(other),
    })
}

/// A string, or nothing if it is empty or null. A number or a boolean is taken as its text.
pub fn text<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    match given(from)? {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(value @ (Value::Number(_) | Value::Bool(_))) => Ok(Some(value.to_string())),
        Some(_) => Err(D::Error::custom("expected a string")),
    }
}

/// As [`text`], but an empty string is one: for what must not be read as "not given".
pub fn word<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    match Value::deserialize(from)? {
        Value::Null => Ok(None),
        Value::String(text) => Ok(Some(text)),
        value @ (Value::Number(_) | Value::Bool(_)) => Ok(Some(value.to_string())),
        _ => Err(D::Error::custom("expected a string")),
    }
}

/// A whole number, as a number or as its digits.
pub fn integer<'de, D: Deserializer<'de>>(from: D) -> Result<Option<i64>, D::Error> {
    let wrong = || D::Error::custom("expected a whole number");
    match given(from)? {
        None => Ok(None),
        Some(Value::Number(number)) => match (number.as_i64(), number.as_f64()) {
            (Some(whole), _) => Ok(Some(whole)),
            (None, Some(float)) if float.fract() == 0.0 && float.abs() < 9e15 => Ok(Some(float as i64)),
            _ => Err(wrong()),
        },
        Some(Value::String(digits)) => digits.trim().parse().map(Some).map_err(|_| wrong()),
        Some(_) => Err(wrong()),
    }
}

/// A boolean, as such, as `"true"`/`"false"`, or as 0 and 1.
pub fn flag<'de, D: Deserializer<'de>>(from: D) -> Result<Option<bool>, D::Error> {
    match given(from)? {
        None => Ok(None),
        Some(Value::Bool(flag)) => Ok(Some(flag)),
        Some(Value::Number(n)) if n.as_i64() == Some(0) => Ok(Some(false)),
        Some(Value::Number(n)) if n.as_i64() == Some(1) => Ok(Some(true)),
        Some(Value::String(text)) if text == "true" || text == "1" => Ok(Some(true)),
        Some(Value::String(text)) if text == "false" || text == "0" => Ok(Some(false)),
        Some(_) => Err(D::Error::custom("expected true or false")),
    }
}

/// A list of texts, or one text in its place; nothing is an empty list.
pub fn texts<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    let texts = match given(from)? {
        None => return Ok(Vec::new()),
        Some(Value::String(one)) => vec![Value::String(one)],
        Some(Value::Array(all)) => all,
        Some(other) => return Err(D::Error::custom(format!("a list of texts is wanted, not {other}"))),
    };
    let text = |value: Value| match value {
        Value::String(text) => Ok(text),
        other => Err(D::Error::custom(format!("a list of texts is wanted, and {other} is none"))),
    };
    texts.into_iter().map(text).collect()
}

/// Those of many: a list, or one text in its place. Not given is all of them, so nothing else may be read as that: an
/// empty list stays one, and an empty text is a text.
pub fn some_of<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Vec<String>>, D::Error> {
    let all = match Value::deserialize(from)? {
        Value::Null => return Ok(None),
        Value::String(one) => return Ok(Some(vec![one])),
        Value::Array(all) => all,
        other => return Err(D::Error::custom(format!("a list of texts is wanted, not {other}"))),
    };
    let texts: Result<Vec<String>, _> = all.into_iter().map(serde_json::from_value).collect();
    texts.map(Some).map_err(|error| D::Error::custom(format!("a list of texts is wanted: {error}")))
}

/// Anything else: nothing if null, an empty string or an empty object.
pub fn maybe<'de, D: Deserializer<'de>, T: DeserializeOwned>(from: D) -> Result<Option<T>, D::Error> {
    given(from)?.map(|value| serde_json::from_value(value).map_err(D::Error::custom)).transpose()
}

/// From here on a float does not hold each whole number.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// What a caller notes on something: keys with a text, a whole number or true or false each. One without a value is not
/// given.
pub fn notes<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Map<String, Value>>, D::Error> {
    let Some(mut notes) = maybe::<D, Map<String, Value>>(from)? else { return Ok(None) };
    notes.retain(|_, value| !value.is_null());
    for (key, value) in &notes {
        let is = match value {
            Value::Array(_) => "a list",
            Value::Object(_) => "an object",
            Value::Number(number) if number.as_f64().is_some_and(|number| number.fract() != 0.0) => {
                "a fraction"
            }
            // It would be shown back as another one.
            Value::Number(number) if number.is_f64() && number.as_f64().is_some_and(|n| n.abs() >= EXACT) => {
                "a number of more than 64 bits"
            }
            _ => continue,
        };
        let key: String = key.chars().take(100).collect();
        let why = format!("`{key}` is {is}; it must be a text, a whole number, or true or false");
        return Err(D::Error::custom(why));
    }
    Ok(Some(notes))
}

/// An architecture, or nothing for any other word: the vendor's registries often write an empty one.
pub fn arch<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Arch>, D::Error> {
    Ok(serde_json::from_value(Value::deserialize(from)?).ok())
}

/// A default in place of `null`: the vendor's Go services write an empty list so.
pub fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(from: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(from)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    struct Ask {
        #[serde(default, deserialize_with = "text")]
        tag: Option<String>,
        #[serde(default, deserialize_with = "integer")]
        count: Option<i64>,
        #[serde(default, deserialize_with = "flag")]
        monitor: Option<bool>,
        #[serde(default, deserialize_with = "notes")]
        metadata: Option<Map<String, Value>>,
    }

    fn read(json: &str) -> Result<Ask, String> {
        serde_json::from_str(json).map_err(|error| error.to_string())
    }

    #[test]
    fn numbers_as_strings_and_empty_values_are_taken() {
        let full = Ask { tag: Some("7".into()), count: Some(3), monitor: Some(true), metadata: None };
        assert_eq!(read(r#"{"tag":7,"count":"3","monitor":"1"}"#), Ok(full));
        let none = Ask { tag: None, count: None, monitor: None, metadata: None };
        assert_eq!(read(r#"{"tag":"","count":"","monitor":null}"#), Ok(none));
    }

    #[test]
    fn what_is_no_number_is_refused() {
        for bad in
            [r#"{"count":1.5}"#, r#"{"count":"x"}"#, r#"{"count":[]}"#, r#"{"tag":[]}"#, r#"{"monitor":2}"#]
        {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn notes_are_texts_whole_numbers_and_truths() {
        let taken =
            |json: &str| read(&format!("{{\"metadata\":{json}}}")).map(|ask| ask.metadata.map(Value::Object));
        let all = r#"{"a":"x","":"","b":-1,"c":18446744073709551615,"d":2.0,"e":false}"#;
        assert_eq!(taken(all), Ok(serde_json::from_str(all).unwrap()));
        assert_eq!(taken(r#"{"a":null,"b":1}"#), Ok(Some(serde_json::json!({ "b": 1 }))), "no value is none");
        for none in [r#""""#, "null", "{}"] {
            assert_eq!(taken(none), Ok(None), "{none}");
        }
        let long = format!(r#"{{"{}":[]}}"#, "k".repeat(5000));
        for (bad, said) in [
            (r#"{"a":"x","b":[1]}"#, "`b` is a list; it must be a text"),
            (r#"{"b":{}}"#, "`b` is an object"),
            (r#"{"b":1.5}"#, "`b` is a fraction"),
            (r#"{"b":99999999999999999999999}"#, "`b` is a number of more than 64 bits"),
            (r#""x""#, "expected a map"),
            ("[]", "expected a map"),
            (long.as_str(), "kk` is a list"),
        ] {
            let why = taken(bad).unwrap_err();
            assert!(why.contains(said) && why.len() < 300, "{bad:.50}: {why}");
        }
    }
}
