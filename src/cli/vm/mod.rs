//! `switchyard vm …`: instances started, looked at, changed and terminated, over a controller or a front of some.

mod again;
mod change;
mod look;
mod start;
mod wait;

use super::{Failure, Printer, role};

/// Arguments of `vm`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Start instances of a template; one call makes them once, whatever happens to its answer
    Start(Box<start::Start>),
    /// List the instances
    #[command(visible_alias = "ls")]
    List(look::List),
    /// Show one instance
    Show(look::Show),
    /// Say why an instance waits, or what went wrong with it
    Why(look::Why),
    /// Change the label, the free text or the metadata of an instance
    Update(change::Update),
    /// Stop an instance's VM and start it again, on its node
    Restart(again::Restart),
    /// Save an instance's VM as a version of a template
    Save(again::Save),
    /// Delete instances
    #[command(visible_alias = "rm")]
    Terminate(change::Terminate),
}

pub(super) fn run(args: &Args, printer: Printer) -> Result<(), Failure> {
    match &args.command {
        Command::Start(args) => role::once(start::run(args, printer))?,
        Command::List(args) => role::once(look::list(args, printer))?,
        Command::Show(args) => role::once(look::show(args, printer))?,
        Command::Why(args) => role::once(look::why(args, printer))?,
        Command::Update(args) => role::once(change::update(args, printer))?,
        Command::Restart(args) => role::once(again::restart(args, printer))?,
        Command::Save(args) => role::once(again::save(args, printer))?,
        Command::Terminate(args) => role::once(change::terminate(args, printer))?,
    }
}

/// `KEY=VALUE`; whole numbers and `true` and `false` are what they look like.
#[derive(Debug, Clone, PartialEq)]
struct Pair(String, serde_json::Value);

impl std::str::FromStr for Pair {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (key, value) =
            text.split_once('=').filter(|(key, _)| !key.is_empty()).ok_or("write KEY=VALUE")?;
        let value = match value {
            "true" => true.into(),
            "false" => false.into(),
            _ => value.parse::<i64>().map_or_else(|_| value.into(), serde_json::Value::from),
        };
        Ok(Self(key.to_owned(), value))
    }
}

fn metadata(pairs: &[Pair]) -> Option<serde_json::Map<String, serde_json::Value>> {
    (!pairs.is_empty()).then(|| pairs.iter().map(|Pair(key, value)| (key.clone(), value.clone())).collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pair_is_a_key_and_a_value_of_its_kind() {
        let value = |text: &str| text.parse::<Pair>().map(|Pair(_, value)| value);
        assert_eq!(value("a=true"), Ok(json!(true)));
        assert_eq!(value("a=17"), Ok(json!(17)));
        assert_eq!(value("a=1.5"), Ok(json!("1.5")));
        assert_eq!(value("a="), Ok(json!("")));
        assert_eq!(value("a=b=c"), Ok(json!("b=c")));
        assert!(value("=b").is_err() && value("a").is_err());
        assert_eq!(metadata(&[]), None);
    }
}
