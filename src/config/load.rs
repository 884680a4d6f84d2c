//! From a file to the checked config of its role.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use toml::de::DeTable;

use super::{
    agent, controller,
    env::{Env, EnvNote},
    proxy,
    raw::{Raw, Stand},
    read, registry,
    report::{Fault, Faults, Place},
    suggest,
    vendor_env::{self, Translated},
};

/// A checked config, by role.
#[derive(Debug, Clone, PartialEq)]
pub enum Loaded {
    /// `[[listener]]`.
    Proxy(proxy::Proxy),
    /// `[store]`.
    Controller(controller::Controller),
    /// `[storage]`.
    Registry(registry::Registry),
    /// `[agent]`.
    Agent(agent::Agent),
}

/// What a file is for; read from its tables, never from its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It has `[[listener]]`.
    Proxy,
    /// It has `[store]`.
    Controller,
    /// It has `[storage]`.
    Registry,
    /// It has `[agent]`.
    Agent,
}

/// The table that makes a file one of a role.
const SIGNS: [(&str, Role); 4] = [
    ("listener", Role::Proxy),
    ("store", Role::Controller),
    ("storage", Role::Registry),
    ("agent", Role::Agent),
];

/// The same, for people.
const SIGNS_TEXT: &str = "`[[listener]]` makes it a proxy's, `[store]` a controller's, `[storage]` a registry's, `[agent]` an agent's";

/// A file larger than this is no config: it is refused before it is read into memory.
const LARGEST: u64 = 4 * 1024 * 1024;

impl Role {
    /// The subcommand.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Proxy => "proxy",
            Self::Controller => "controller",
            Self::Registry => "registry",
            Self::Agent => "agent",
        }
    }

    fn with_article(self) -> &'static str {
        match self {
            Self::Proxy => "a proxy",
            Self::Controller => "a controller",
            Self::Registry => "a registry",
            Self::Agent => "an agent",
        }
    }
}

impl Loaded {
    /// Whose config it is.
    pub fn role(&self) -> Role {
        match self {
            Self::Proxy(_) => Role::Proxy,
            Self::Controller(_) => Role::Controller,
            Self::Registry(_) => Role::Registry,
            Self::Agent(_) => Role::Agent,
        }
    }
}

/// Reads and checks a file of any role, with the variables that override its keys.
///
/// Opens the file and nothing that it names; connects to nothing. Errors hold every fault of the file.
pub fn load(path: &Path, env: &Env) -> Result<(Loaded, Vec<EnvNote>), Faults> {
    match open(path) {
        Ok(source) => parse(path, source, None, env, &[]),
        Err(fault) => Err(Faults::new(path.to_owned(), String::new(), vec![fault])),
    }
}

/// Checks what a proxy's file would hold, before there is one; `path` is what it is called in faults. Variables override
/// nothing of it.
pub fn check_proxy(path: &Path, source: &str) -> Result<proxy::Proxy, Faults> {
    let env = Env::default();
    match parse(path, source.to_owned(), Some(Role::Proxy), &env, &[])? {
        (Loaded::Proxy(config), _) => Ok(config),
        (other, _) => {
            let fault = wrong_role(other.role(), Role::Proxy, Place::File);
            Err(Faults::new(path.to_owned(), source.to_owned(), vec![fault]))
        }
    }
}

macro_rules! loaders {
    ($($(#[$doc:meta])* $name:ident, $role:ident, $config:ty;)*) => {$(
        $(#[$doc])*
        pub fn $name(path: &Path, env: &Env) -> Result<($config, Vec<EnvNote>), Faults> {
            let source = open(path).map_err(|f| Faults::new(path.to_owned(), String::new(), vec![f]))?;
            match parse(path, source.clone(), Some(Role::$role), env, &[])? {
                (Loaded::$role(config), notes) => Ok((config, notes)),
                // `parse` was told the role and refuses any other.
                (other, _) => Err(Faults::new(path.to_owned(), source, vec![wrong_role(other.role(), Role::$role, Place::File)])),
            }
        }
    )*};
}

loaders! {
    /// Like [`load`], for a proxy's file alone.
    load_proxy, Proxy, proxy::Proxy;
    /// Like [`load`], for a controller's file alone.
    load_controller, Controller, controller::Controller;
    /// Like [`load`], for a registry's file alone.
    load_registry, Registry, registry::Registry;
}

/// A flag of the command line that stands for a key; it goes before the file and before variables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flag {
    /// As the user writes it: `--name`.
    pub name: &'static str,
    /// `agent`, or `agent_tls` for its table `tls`.
    pub section: &'static str,
    /// The key there.
    pub key: &'static str,
    /// As given; entries of a list are separated by commas.
    pub value: String,
}

/// An agent's config: from a file, or from flags alone.
pub fn load_agent(
    path: Option<&Path>,
    env: &Env,
    flags: &[Flag],
) -> Result<(agent::Agent, Vec<EnvNote>), Faults> {
    let (path, source) = match path {
        Some(path) => {
            let source = open(path).map_err(|f| Faults::new(path.to_owned(), String::new(), vec![f]))?;
            (path, source)
        }
        // Flags are all there is: as if the file had the table and nothing in it.
        None => (Path::new("command line"), "[agent]\n".to_owned()),
    };
    match parse(path, source.clone(), Some(Role::Agent), env, flags)? {
        (Loaded::Agent(config), notes) => Ok((config, notes)),
        (other, _) => {
            let fault = wrong_role(other.role(), Role::Agent, Place::File);
            Err(Faults::new(path.to_owned(), source, vec![fault]))
        }
    }
}

fn wrong_role(found: Role, wanted: Role, place: Place) -> Fault {
    Fault {
        what: format!("this is the config of {}, not of {}", found.with_article(), wanted.with_article()),
        right: format!("run `switchyard {} -c` with it", found.as_str()),
        place,
    }
}

fn open(path: &Path) -> Result<String, Fault> {
    let fault = |what: String, right: &str| Fault { what, right: right.into(), place: Place::File };
    let about = std::fs::metadata(path).map_err(|error| {
        fault(format!("cannot read the file: {error}"), "check its path and its permissions")
    })?;
    if about.is_dir() {
        return Err(fault("this is a directory".into(), "name a file"));
    }
    if about.len() > LARGEST {
        return Err(fault(format!("the file has {} bytes", about.len()), "a config has less than 4 MiB"));
    }
    let bytes = std::fs::read(path).map_err(|error| {
        fault(format!("cannot read the file: {error}"), "check its path and its permissions")
    })?;
    String::from_utf8(bytes)
        .map_err(|error| fault(format!("the file is not UTF-8: {error}"), "save it as UTF-8 text"))
}

fn parse(
    path: &Path,
    source: String,
    wanted: Option<Role>,
    env: &Env,
    flags: &[Flag],
) -> Result<(Loaded, Vec<EnvNote>), Faults> {
    match check(&source, wanted, env, flags) {
        Ok(loaded) => Ok(loaded),
        Err(faults) => Err(Faults::new(PathBuf::from(path), source, faults)),
    }
}

fn check(
    source: &str,
    wanted: Option<Role>,
    env: &Env,
    flags: &[Flag],
) -> Result<(Loaded, Vec<EnvNote>), Vec<Fault>> {
    let (root, errors) = DeTable::parse_recoverable(source);
    if !errors.is_empty() {
        return Err(errors.iter().map(|error| syntax(error, source)).collect());
    }
    let root = root.get_ref();
    let role = role(root, source, wanted)?;
    let Translated { mut stands, notes: mut vendor_notes, faults: mut vendor_faults } = match role {
        Role::Controller => vendor_env::controller(env),
        Role::Registry => vendor_env::registry(env),
        Role::Proxy | Role::Agent => Translated::default(),
    };
    for flag in flags {
        let stand = Stand { from: format!("flag {}", flag.name), text: flag.value.clone(), wins: true };
        stands.insert((flag.section, flag.key), stand);
    }
    let raw = Raw::new(root, env, stands);
    let config = match role {
        Role::Proxy => read::proxy(&raw).map(Loaded::Proxy),
        Role::Controller => read::controller(&raw).map(Loaded::Controller),
        Role::Registry => read::registry(&raw).map(Loaded::Registry),
        Role::Agent => read::agent(&raw).map(Loaded::Agent),
    };
    let (mut faults, mut notes) = raw.finish();
    faults.append(&mut vendor_faults);
    notes.append(&mut vendor_notes);
    match config {
        Some(config) if faults.is_empty() => Ok((config, notes)),
        _ => Err(faults),
    }
}

fn syntax(error: &toml::de::Error, source: &str) -> Fault {
    let place = error.span().map_or(Place::File, Place::Span);
    let around = error.span().and_then(|span| source.get(..span.start)).unwrap_or_default();
    let line = around.rsplit('\n').next().unwrap_or_default();
    // The most common slip: text without quotes.
    let bare = line.contains('=') && !line.contains('"') && error.message().contains("expected");
    let right = if bare { "write text in quotes: `key = \"…\"`" } else { "this is not TOML" };
    Fault { what: error.message().to_owned(), right: right.into(), place }
}

fn role(root: &DeTable<'_>, source: &str, wanted: Option<Role>) -> Result<Role, Vec<Fault>> {
    let found: Vec<(Role, Place)> = SIGNS
        .iter()
        .filter_map(|(sign, role)| {
            let (key, _) = root.get_key_value(*sign)?;
            Some((*role, Place::Span(key.span())))
        })
        .collect();
    match found.as_slice() {
        [(role, place)] => match wanted {
            Some(wanted) if wanted != *role => Err(vec![wrong_role(*role, wanted, place.clone())]),
            _ => Ok(*role),
        },
        [] => {
            if source.trim().is_empty() {
                return Err(vec![Fault {
                    what: "the file is empty".into(),
                    right: SIGNS_TEXT.into(),
                    place: Place::File,
                }]);
            }
            // A slip in the deciding table itself is shown where it is.
            let slips: BTreeMap<usize, Fault> = root
                .iter()
                .filter_map(|(key, _)| {
                    let near = suggest::nearest(key.get_ref(), SIGNS.iter().map(|(sign, _)| *sign))?;
                    let what = format!(
                        "unknown table `{}`, and no table that says whose config this is",
                        key.get_ref()
                    );
                    let right = format!("did you mean `{near}`? {SIGNS_TEXT}");
                    Some((key.span().start, Fault { what, right, place: Place::Span(key.span()) }))
                })
                .collect();
            if !slips.is_empty() {
                return Err(slips.into_values().collect());
            }
            let what = "no table says whose config this is".to_owned();
            Err(vec![Fault { what, right: SIGNS_TEXT.into(), place: Place::File }])
        }
        [(first, _), rest @ ..] => Err(rest
            .iter()
            .map(|(role, place)| Fault {
                what: format!("the file is {}'s and {}'s at once", first.with_article(), role.with_article()),
                right: format!("write one file per role: {SIGNS_TEXT}"),
                place: place.clone(),
            })
            .collect()),
    }
}
