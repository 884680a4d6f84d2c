//! What a config is written as: a tree whose keys keep their order, in TOML and in JSON alike.

use std::borrow::Cow;

use serde::{Serialize, Serializer, ser::SerializeMap};

/// One value.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Node {
    Flag(bool),
    Whole(i64),
    Number(f64),
    Text(String),
    List(Vec<Node>),
    Table(Keys),
}

impl Node {
    /// In TOML these begin a part of the file of their own, and whatever stands behind belongs to that.
    fn is_part(&self) -> bool {
        match self {
            Self::Table(_) => true,
            Self::List(items) => matches!(items.first(), Some(Self::Table(_))),
            Self::Flag(_) | Self::Whole(_) | Self::Number(_) | Self::Text(_) => false,
        }
    }
}

/// Keys of one table.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Keys(Vec<(Cow<'static, str>, Node)>);

impl Keys {
    pub(super) fn with(mut self, key: impl Into<Cow<'static, str>>, value: impl Into<Node>) -> Self {
        self.0.push((key.into(), value.into()));
        self
    }

    /// A key that is left out where there is nothing to say.
    pub(super) fn maybe(self, key: &'static str, value: Option<impl Into<Node>>) -> Self {
        match value {
            Some(value) => self.with(key, value),
            None => self,
        }
    }

    /// A list or table that is left out when it is empty.
    pub(super) fn unless_empty(self, key: &'static str, value: impl Into<Node>) -> Self {
        match value.into() {
            Node::List(items) if items.is_empty() => self,
            Node::Table(Self(keys)) if keys.is_empty() => self,
            value => self.with(key, value),
        }
    }
}

/// What is no table of its own comes first, as TOML needs it.
impl Serialize for Keys {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for part in [false, true] {
            for (key, value) in self.0.iter().filter(|(_, value)| value.is_part() == part) {
                map.serialize_entry(key, value)?;
            }
        }
        map.end()
    }
}

impl Serialize for Node {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Flag(flag) => flag.serialize(serializer),
            Self::Whole(number) => number.serialize(serializer),
            Self::Number(number) => number.serialize(serializer),
            Self::Text(text) => text.serialize(serializer),
            Self::List(items) => items.serialize(serializer),
            Self::Table(keys) => keys.serialize(serializer),
        }
    }
}

impl From<bool> for Node {
    fn from(flag: bool) -> Self {
        Self::Flag(flag)
    }
}

impl From<f64> for Node {
    fn from(number: f64) -> Self {
        Self::Number(number)
    }
}

impl From<u32> for Node {
    fn from(number: u32) -> Self {
        Self::Whole(number.into())
    }
}

impl From<u64> for Node {
    /// No key takes one that is larger than TOML's largest.
    fn from(number: u64) -> Self {
        Self::Whole(i64::try_from(number).unwrap_or(i64::MAX))
    }
}

impl From<usize> for Node {
    fn from(number: usize) -> Self {
        (number as u64).into()
    }
}

impl From<&str> for Node {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Node {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<Keys> for Node {
    fn from(keys: Keys) -> Self {
        Self::Table(keys)
    }
}

impl<T: Into<Node>> FromIterator<T> for Node {
    fn from_iter<I: IntoIterator<Item = T>>(items: I) -> Self {
        Self::List(items.into_iter().map(Into::into).collect())
    }
}
