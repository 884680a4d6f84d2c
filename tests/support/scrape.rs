//! What `/metrics` gives, read strictly and looked at as Prometheus' own checker does (`promtool check metrics`, whose
//! rules are documented in the package `prometheus/util/promlint`), and compared with the list of metrics.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write,
    process::{Command, Stdio},
};

use switchyard::telemetry::names::{self, Kind};

/// The families of one scrape, by name.
pub type Families = BTreeMap<String, Family>;

/// Labels and their values.
type Labels = BTreeMap<String, String>;

/// One metric with all its series.
#[derive(Debug, Default)]
pub struct Family {
    pub help: String,
    pub kind: String,
    /// Labels in order of their names, with the sample's own name before them (`x_bucket`), and the value.
    pub series: Vec<(String, Labels, f64)>,
}

/// Reads a scrape.
///
/// Panics at the first line that is none of the format, with the line.
pub fn read(text: &str) -> Families {
    let mut families = Families::new();
    let mut current = String::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap_or_else(|| panic!("a help without text: {line}"));
            name.clone_into(&mut current);
            let before =
                families.insert(current.clone(), Family { help: help.to_owned(), ..Family::default() });
            assert!(before.is_none(), "{name} is there twice");
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap_or_else(|| panic!("no type: {line}"));
            assert_eq!(name, current, "the type follows the help of the same metric");
            families.get_mut(name).expect("just put there").kind = kind.to_owned();
        } else {
            let (name, labels, value) = sample(line);
            let family = families.get_mut(&current).unwrap_or_else(|| panic!("a sample of nothing: {line}"));
            let of_it = match family.kind.as_str() {
                "histogram" => {
                    ["_bucket", "_sum", "_count"].iter().any(|end| name == format!("{current}{end}"))
                }
                _ => name == current,
            };
            assert!(of_it, "among the samples of {current}: {line}");
            family.series.push((name, labels, value));
        }
    }
    families
}

/// `name{label="value"} 1`.
fn sample(line: &str) -> (String, Labels, f64) {
    let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no sample: {line}"));
    let value = value.parse().unwrap_or_else(|_| panic!("not a number: {line}"));
    let Some((name, rest)) = series.split_once('{') else {
        return (series.to_owned(), Labels::new(), value);
    };
    let rest = rest.strip_suffix('}').unwrap_or_else(|| panic!("labels without an end: {line}"));
    let mut labels = Labels::new();
    // Values of ours have no quote and no comma in them: they are from enums, configs and versions.
    for pair in rest.split(',').filter(|pair| !pair.is_empty()) {
        let (label, given) = pair.split_once('=').unwrap_or_else(|| panic!("no label: {line}"));
        let given = given.strip_prefix('"').and_then(|g| g.strip_suffix('"'));
        let given = given.unwrap_or_else(|| panic!("a label's value without quotes: {line}"));
        assert!(labels.insert(label.to_owned(), given.to_owned()).is_none(), "a label twice: {line}");
    }
    (name.to_owned(), labels, value)
}

/// What is wrong with these metrics, in words: by the rules of Prometheus' checker and by our own list.
pub fn faults(families: &Families) -> Vec<String> {
    let known: BTreeMap<&str, &names::Name> = names::ALL.iter().map(|name| (name.name, name)).collect();
    let mut faults = Vec::new();
    for (name, family) in families {
        let mut fault = |text: String| faults.push(format!("{name}: {text}"));
        match known.get(name.as_str()) {
            None => fault("is in no list".into()),
            Some(listed) => {
                if listed.kind.as_str() != family.kind {
                    fault(format!("is listed as a {} and given as a {}", listed.kind.as_str(), family.kind));
                }
                if listed.help != family.help {
                    fault(format!("its help is {:?}", family.help));
                }
                let expected: BTreeSet<&str> = listed.labels.iter().copied().collect();
                for (_, labels, _) in &family.series {
                    let given: BTreeSet<&str> =
                        labels.keys().map(String::as_str).filter(|l| *l != "le").collect();
                    if given != expected {
                        fault(format!("has labels {given:?} and not {expected:?}"));
                    }
                }
            }
        }
        for text in lint(name, family) {
            fault(text);
        }
    }
    faults
}

/// The rules of promlint that a scrape can break.
fn lint(name: &str, family: &Family) -> Vec<String> {
    let mut faults = Vec::new();
    let counter = family.kind == Kind::Counter.as_str();
    if family.help.is_empty() {
        faults.push("no help".to_owned());
    }
    if counter != name.ends_with("_total") {
        faults.push("counters end in _total, and nothing else does".to_owned());
    }
    let histogram = family.kind == Kind::Histogram.as_str();
    for end in ["_count", "_sum", "_bucket"] {
        if name.ends_with(end) {
            faults.push(format!("{end} is kept for histograms' own samples"));
        }
    }
    if name.split('_').any(|part| ["counter", "gauge", "histogram", "summary"].contains(&part)) {
        faults.push("the type is not a part of the name".to_owned());
    }
    if name.chars().any(|c| c == ':' || c.is_ascii_uppercase()) {
        faults.push("neither colons nor capitals belong in a name".to_owned());
    }
    let foreign = [
        "ms",
        "us",
        "ns",
        "sec",
        "min",
        "minutes",
        "hours",
        "days",
        "milliseconds",
        "microseconds",
        "kb",
        "mb",
        "gb",
        "kilobytes",
        "megabytes",
        "bits",
        "percent",
        "celcius",
        "grams",
    ];
    if let Some(unit) = name.split('_').find(|part| foreign.contains(part)) {
        faults.push(format!("{unit} is no base unit or is shortened"));
    }
    let mut seen = BTreeSet::new();
    for (sample, labels, value) in &family.series {
        if !seen.insert((sample, labels)) {
            faults.push(format!("the series {sample} {labels:?} is there twice"));
        }
        if counter && *value < 0.0 {
            faults.push(format!("a counter below 0: {value}"));
        }
        for label in labels.keys() {
            let fit = label.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
            if !fit || (label == "le" && !histogram) {
                faults.push(format!("label {label}"));
            }
        }
    }
    if histogram {
        faults.extend(buckets(name, family));
    }
    faults
}

/// Each series of a histogram rises from bound to bound, up to its count.
fn buckets(name: &str, family: &Family) -> Vec<String> {
    let (mut by, mut counts) = (BTreeMap::<_, Vec<(f64, f64)>>::new(), BTreeMap::new());
    for (sample, labels, value) in &family.series {
        let others: Vec<_> = labels.iter().filter(|(label, _)| *label != "le").collect();
        if *sample == format!("{name}_bucket") {
            let bound = labels.get("le").and_then(|le| le.parse().ok()).unwrap_or(f64::NAN);
            by.entry(others).or_default().push((bound, *value));
        } else if *sample == format!("{name}_count") {
            counts.insert(others, *value);
        }
    }
    let mut faults = Vec::new();
    for (labels, bounds) in by {
        if !bounds.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1) {
            faults.push(format!("buckets of {labels:?} do not rise: {bounds:?}"));
        }
        if bounds.last().map(|(bound, value)| (bound.is_infinite(), Some(value)))
            != Some((true, counts.get(&labels)))
        {
            faults.push(format!("buckets of {labels:?} do not end with all"));
        }
    }
    faults
}

/// What the real `promtool check metrics` complains of; empty when it finds nothing.
pub fn promtool(text: &str) -> String {
    let mut tool = Command::new("promtool");
    tool.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = tool.spawn().expect("promtool, which scripts/test installs");
    child.stdin.take().expect("a pipe").write_all(text.as_bytes()).expect("it reads");
    let out = child.wait_with_output().expect("it ends");
    let said = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success() || !said.is_empty(), "promtool fails without a word: {}", out.status);
    said
}
