//! A file as written, read key by key: each reader notes every fault and goes on.
//!
//! [`Raw`] is one file with its overrides, [`Table`] one table of it. A table remembers which keys it was
//! asked for; when it is dropped, whatever else is in it is an unknown key. That way a key is known exactly
//! where it is read, and no second list of keys can disagree with the code.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    env::{self, Env, EnvNote},
    planned,
    report::{Fault, Place},
    suggest,
    value::{Given, Wrong},
};

/// A value that a flag or a variable of the vendor's gives to a key.
#[derive(Debug, Clone)]
pub(super) struct Stand {
    /// Where it is from: `flag --name`.
    pub(super) from: String,
    /// The value, brought into our form.
    pub(super) text: String,
    /// Whether it goes before our own variable for the key: flags do.
    pub(super) wins: bool,
}

/// One file and what overrides it.
pub(super) struct Raw<'r> {
    root: &'r DeTable<'r>,
    env: &'r Env,
    stands: BTreeMap<(&'static str, &'static str), Stand>,
    faults: RefCell<Vec<Fault>>,
    sections: RefCell<Vec<&'static str>>,
    variables: RefCell<BTreeSet<String>>,
    notes: RefCell<Vec<EnvNote>>,
}

/// One table of the file; empty if the file has none of this name.
pub(super) struct Table<'r> {
    raw: &'r Raw<'r>,
    path: String,
    /// The path with `*` for names, as in the list of planned keys.
    shape: String,
    section: Option<&'static str>,
    place: Place,
    keys: Option<&'r DeTable<'r>>,
    known: RefCell<Vec<&'static str>>,
    /// Its keys are the operator's own.
    open: Cell<bool>,
}

impl<'r> Raw<'r> {
    pub(super) fn new(
        root: &'r DeTable<'r>,
        env: &'r Env,
        stands: BTreeMap<(&'static str, &'static str), Stand>,
    ) -> Self {
        Self {
            root,
            env,
            stands,
            faults: RefCell::default(),
            sections: RefCell::default(),
            variables: RefCell::default(),
            notes: RefCell::default(),
        }
    }

    /// Notes a fault.
    pub(super) fn fault(&self, place: Place, what: impl Into<String>, right: impl Into<String>) {
        self.faults.borrow_mut().push(Fault { what: what.into(), right: right.into(), place });
    }

    /// `[name]`, whose keys variables may override.
    pub(super) fn section(&'r self, name: &'static str) -> Table<'r> {
        self.sections.borrow_mut().push(name);
        let (keys, place) = match self.root.get_key_value(name) {
            None => (None, Place::File),
            Some((key, value)) => (self.as_table(name, value), Place::Span(header(key, value))),
        };
        Table::new(self, name.into(), name.into(), Some(name), place, keys)
    }

    /// `[[name]]`, in file order.
    pub(super) fn sections(&'r self, name: &'static str) -> Vec<Table<'r>> {
        self.sections.borrow_mut().push(name);
        let Some((key, value)) = self.root.get_key_value(name) else { return Vec::new() };
        let DeValue::Array(items) = value.get_ref() else {
            let right = format!("write `[[{name}]]`, with two brackets");
            self.fault(
                Place::Span(header(key, value)),
                format!("`{name}` can be given several times"),
                right,
            );
            return Vec::new();
        };
        items.iter().filter_map(|item| self.item(name, item)).collect()
    }

    /// `[name.X]` for every X, in file order.
    pub(super) fn named(&'r self, name: &'static str) -> Vec<(&'r str, Place, Table<'r>)> {
        self.sections.borrow_mut().push(name);
        let Some((_, value)) = self.root.get_key_value(name) else { return Vec::new() };
        let Some(keys) = self.as_table(name, value) else { return Vec::new() };
        let mut found: Vec<_> = keys
            .iter()
            .filter_map(|(key, value)| {
                let path = format!("{name}.{}", key.get_ref());
                let place = Place::Span(header(key, value));
                let keys = self.as_table(&path, value)?;
                let table = Table::new(self, path, format!("{name}.*"), None, place.clone(), Some(keys));
                Some((key.span().start, key.get_ref().as_ref(), place, table))
            })
            .collect();
        found.sort_by_key(|(start, ..)| *start);
        found.into_iter().map(|(_, name, place, table)| (name, place, table)).collect()
    }

    fn item(&'r self, path: &str, item: &'r Spanned<DeValue<'r>>) -> Option<Table<'r>> {
        let keys = self.as_table(path, item)?;
        Some(Table::new(self, path.into(), path.into(), None, Place::Span(item.span()), Some(keys)))
    }

    fn as_table(&self, path: &str, value: &'r Spanned<DeValue<'r>>) -> Option<&'r DeTable<'r>> {
        match value.get_ref() {
            DeValue::Table(keys) => Some(keys),
            other => {
                let what = format!("`{path}` is {}, not a table", Given::File(other).kind());
                self.fault(Place::Span(value.span()), what, "write it as a table: `{ key = value }`");
                None
            }
        }
    }

    /// Ends the reading: unknown tables and variables, and every fault that was noted.
    pub(super) fn finish(self) -> (Vec<Fault>, Vec<EnvNote>) {
        let sections = self.sections.borrow().clone();
        for (key, value) in self.root.iter() {
            let name = key.get_ref().as_ref();
            if !sections.contains(&name) {
                self.unknown(Place::Span(header(key, value)), name, name, "table", &sections);
            }
        }
        let variables = self.variables.borrow();
        for (name, _) in self.env.with_prefix(env::PREFIX) {
            if env::OF_COMMANDS.contains(&name) && !variables.contains(name) {
                let text =
                    "the command line reads it, where it asks a server; no key of this role is set by it";
                self.notes.borrow_mut().push(EnvNote {
                    variable: name.into(),
                    honoured: false,
                    text: text.into(),
                });
            } else if !variables.contains(name) {
                let near = suggest::nearest(name, variables.iter().map(String::as_str));
                let text = near.map_or_else(
                    || "no key of this role is set by it".to_owned(),
                    |near| format!("no key of this role is set by it; did you mean `{near}`?"),
                );
                self.notes.borrow_mut().push(EnvNote { variable: name.into(), honoured: false, text });
            }
        }
        drop(variables);
        (self.faults.into_inner(), self.notes.into_inner())
    }

    fn unknown(&self, place: Place, path: &str, shape: &str, noun: &str, known: &[&'static str]) {
        let key = path.rsplit('.').next().unwrap_or(path);
        if let Some(instead) = planned::moved(shape) {
            return self.fault(place, format!("unknown {noun} `{path}`"), instead);
        }
        if planned::is(shape) {
            return self.fault(place, format!("`{path}` is not supported by this version"), "delete it");
        }
        let right = match suggest::nearest(key, known.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None if known.is_empty() => "delete it".into(),
            None => format!("known here: {}", quoted(known)),
        };
        self.fault(place, format!("unknown {noun} `{path}`"), right);
    }
}

/// `` `a`, `b` and `c` ``, each once.
pub(super) fn quoted(words: &[&str]) -> String {
    let words: BTreeSet<&str> = words.iter().copied().collect();
    words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
}

/// Where to point for a whole table: its header, or the key of an inline one.
fn header(key: &Spanned<toml::de::DeString<'_>>, value: &Spanned<DeValue<'_>>) -> Range<usize> {
    match value.get_ref() {
        DeValue::Table(_) if value.span().start < key.span().start => value.span(),
        _ => key.span(),
    }
}

impl<'r> Table<'r> {
    fn new(
        raw: &'r Raw<'r>,
        path: String,
        shape: String,
        section: Option<&'static str>,
        place: Place,
        keys: Option<&'r DeTable<'r>>,
    ) -> Self {
        Self { raw, path, shape, section, place, keys, known: RefCell::default(), open: Cell::new(false) }
    }

    /// Whether the file has this table, or a variable gives it a key.
    pub(super) fn is_given(&self) -> bool {
        self.keys.is_some()
            || self.section.is_some_and(|section| {
                let prefix = env::variable(section, "");
                self.raw.env.with_prefix(&prefix).next().is_some()
                    || self.raw.stands.keys().any(|(of, _)| *of == section)
            })
    }

    /// `listener.bind`.
    pub(super) fn path_of(&self, key: &str) -> String {
        format!("{}.{key}", self.path)
    }

    /// Whether the key is there.
    pub(super) fn has(&self, key: &'static str) -> bool {
        self.given(key).is_some()
    }

    /// Where the key's value is; the table itself if there is none.
    pub(super) fn at(&self, key: &'static str) -> Place {
        self.given(key).map_or_else(|| self.place.clone(), |(_, place)| place)
    }

    /// Notes a fault of a key.
    pub(super) fn fault(&self, key: &'static str, what: impl std::fmt::Display, right: impl Into<String>) {
        self.raw.fault(self.at(key), format!("`{}` {what}", self.path_of(key)), right);
    }

    /// Notes a fault at a place of this table's.
    pub(super) fn fault_at(&self, place: Place, what: impl Into<String>, right: impl Into<String>) {
        self.raw.fault(place, what, right);
    }

    /// A key that may be missing.
    pub(super) fn opt<T>(
        &self,
        key: &'static str,
        read: impl FnOnce(&Given<'r>) -> Result<T, Wrong>,
    ) -> Option<T> {
        let (given, place) = self.given(key)?;
        match read(&given) {
            Ok(value) => Some(value),
            Err(wrong) => {
                self.wrong(key, place, wrong);
                None
            }
        }
    }

    /// A key with a default.
    pub(super) fn or<T>(
        &self,
        key: &'static str,
        default: T,
        read: impl FnOnce(&Given<'r>) -> Result<T, Wrong>,
    ) -> T {
        self.opt(key, read).unwrap_or(default)
    }

    /// A key that must be there; `example` is a whole line to write.
    pub(super) fn need<T>(
        &self,
        key: &'static str,
        example: &str,
        read: impl FnOnce(&Given<'r>) -> Result<T, Wrong>,
    ) -> Option<T> {
        if !self.has(key) {
            self.missing(key, example);
        }
        self.opt(key, read)
    }

    /// Notes that a key is missing.
    pub(super) fn missing(&self, key: &'static str, example: &str) {
        let right = match self.place {
            Place::Span(_) => format!("add `{example}`"),
            _ => format!("add a table `[{}]` with `{example}`", self.path),
        };
        self.raw.fault(self.place.clone(), format!("`{}` is missing", self.path_of(key)), right);
    }

    /// A list, each entry with its place. In a variable the entries are separated by commas.
    pub(super) fn list<T>(
        &self,
        key: &'static str,
        mut read: impl FnMut(&Given<'r>) -> Result<T, Wrong>,
    ) -> Option<Vec<(T, Place)>> {
        let (given, place) = self.given(key)?;
        let entries: Vec<(Given<'r>, Place)> = match given {
            Given::Text(text) => {
                let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
                parts.map(|part| (Given::Text(part), place.clone())).collect()
            }
            Given::File(DeValue::Array(items)) => {
                items.iter().map(|i| (Given::File(i.get_ref()), Place::Span(i.span()))).collect()
            }
            Given::File(other) => {
                let kind = Given::File(other).kind();
                let wrong = Wrong::new(format!("is {kind}, not a list"), "write it in brackets: `[…]`");
                self.wrong(key, place, wrong);
                return None;
            }
        };
        let mut values = Vec::with_capacity(entries.len());
        for (entry, place) in entries {
            match read(&entry) {
                Ok(value) => values.push((value, place)),
                Err(wrong) => self.wrong(key, place, wrong),
            }
        }
        Some(values)
    }

    /// A list that must be there and hold at least one; `example` is a whole line to write.
    pub(super) fn need_list<T>(
        &self,
        key: &'static str,
        example: &str,
        read: impl FnMut(&Given<'r>) -> Result<T, Wrong>,
    ) -> Option<Vec<(T, Place)>> {
        match self.given(key) {
            None => self.missing(key, example),
            Some((Given::File(DeValue::Array(items)), _)) if items.is_empty() => {
                self.fault(key, "is empty", format!("name at least one: `{example}`"));
                return None;
            }
            Some((Given::Text(""), _)) => {
                self.fault(key, "is empty", format!("name at least one: `{example}`"));
                return None;
            }
            Some(_) => {}
        }
        self.list(key, read)
    }

    /// As [`Table::sub`], with variables for its keys: `SWITCHYARD_SECTION_KEY`.
    pub(super) fn sub_with_variables(&self, key: &'static str, section: &'static str) -> Table<'r> {
        let mut table = self.sub(key);
        table.section = Some(section);
        table
    }

    /// A table inside this one; empty if there is none.
    pub(super) fn sub(&self, key: &'static str) -> Table<'r> {
        self.known.borrow_mut().push(key);
        let (path, shape) = (self.path_of(key), format!("{}.{key}", self.shape));
        let found = self.keys.and_then(|keys| keys.get_key_value(key));
        let (keys, place) = match found {
            None => (None, self.place.clone()),
            Some((name, value)) => (self.raw.as_table(&path, value), Place::Span(header(name, value))),
        };
        Table::new(self.raw, path, shape, None, place, keys)
    }

    /// A list of tables inside this one, in file order.
    pub(super) fn tables(&self, key: &'static str, example: &str) -> Vec<Table<'r>> {
        self.known.borrow_mut().push(key);
        let Some(value) = self.keys.and_then(|keys| keys.get(key)) else { return Vec::new() };
        let (path, shape) = (self.path_of(key), format!("{}.{key}", self.shape));
        let DeValue::Array(items) = value.get_ref() else {
            let what = format!("`{path}` is {}, not a list", Given::File(value.get_ref()).kind());
            self.raw.fault(Place::Span(value.span()), what, format!("write `{key} = [{example}]`"));
            return Vec::new();
        };
        items
            .iter()
            .filter_map(|item| match item.get_ref() {
                DeValue::Table(keys) => {
                    let place = Place::Span(item.span());
                    Some(Table::new(self.raw, path.clone(), shape.clone(), None, place, Some(keys)))
                }
                other => {
                    let what = format!("`{path}` has {} in it, not a table", Given::File(other).kind());
                    self.raw.fault(Place::Span(item.span()), what, format!("write `{example}`"));
                    None
                }
            })
            .collect()
    }

    /// Whether the key is an empty list.
    pub(super) fn is_empty_list(&self, key: &'static str) -> bool {
        matches!(self.given(key), Some((Given::File(DeValue::Array(items)), _)) if items.is_empty())
    }

    /// All keys and values of a table whose keys are the operator's own, in file order: none is unknown.
    pub(super) fn entries(&self) -> Vec<(&'r str, Place, &'r DeValue<'r>)> {
        self.open.set(true);
        let Some(keys) = self.keys else { return Vec::new() };
        let mut all: Vec<_> = keys.iter().collect();
        all.sort_by_key(|(key, _)| key.span().start);
        all.into_iter()
            .map(|(key, value)| (key.get_ref().as_ref(), Place::Span(key.span()), value.get_ref()))
            .collect()
    }

    /// Where the table is.
    pub(super) fn place(&self) -> Place {
        self.place.clone()
    }

    fn given(&self, key: &'static str) -> Option<(Given<'r>, Place)> {
        self.known.borrow_mut().push(key);
        if let Some(section) = self.section {
            let name = env::variable(section, key);
            self.raw.variables.borrow_mut().insert(name.clone());
            let stand = self.raw.stands.get(&(section, key));
            let of_stand =
                |stand: &'r Stand| Some((Given::Text(&stand.text), Place::Given(stand.from.clone())));
            if let Some(stand) = stand.filter(|stand| stand.wins) {
                return of_stand(stand);
            }
            if let Some(text) = self.raw.env.get(&name) {
                return Some((Given::Text(text), Place::Given(format!("environment variable {name}"))));
            }
            if let Some(stand) = stand {
                return of_stand(stand);
            }
        }
        let value = self.keys?.get(key)?;
        Some((Given::File(value.get_ref()), Place::Span(value.span())))
    }

    fn wrong(&self, key: &str, place: Place, wrong: Wrong) {
        self.raw.fault(place, format!("`{}` {}", self.path_of(key), wrong.what), wrong.right);
    }
}

impl Drop for Table<'_> {
    fn drop(&mut self) {
        let Some(keys) = self.keys else { return };
        if self.open.get() {
            return;
        }
        let known = self.known.borrow();
        for (key, value) in keys.iter() {
            let name = key.get_ref().as_ref();
            if !known.contains(&name) {
                let (path, shape) = (self.path_of(name), format!("{}.{name}", self.shape));
                self.raw.unknown(Place::Span(header(key, value)), &path, &shape, "key", &known);
            }
        }
    }
}
