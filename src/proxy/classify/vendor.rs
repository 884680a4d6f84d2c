//! What requests of the vendor's APIs name: layer files, templates, files of the web page. Their transfer protocol is not
//! public, so nothing here is told by a path as a whole.

use std::borrow::Cow;

use crate::model::TemplateId;

/// A layer file is called by so many hex digits, and never changes.
const LAYER_DIGITS: usize = 32;
const LAYER_ENDING: &str = ".ank";

/// Endings of the files that a web page is made of.
const ASSETS: [&str; 12] =
    ["css", "gif", "html", "ico", "jpg", "js", "json", "map", "png", "svg", "ttf", "woff2"];

/// The layer file that a request is about: its path ends with it, or a value of its query is one.
pub fn layer<'a>(path: &'a str, query: &'a str) -> Option<&'a str> {
    let name = path.rsplit('/').next().filter(|name| is_layer(name));
    name.or_else(|| pairs(query).map(|(_, value)| value).find(|value| is_layer(file(value))))
}

fn file(value: &str) -> &str {
    value.rsplit('/').next().unwrap_or(value)
}

fn is_layer(name: &str) -> bool {
    let digits = name.strip_suffix(LAYER_ENDING).unwrap_or_default();
    digits.len() == LAYER_DIGITS && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// The template that a request is about: its `id`, else a segment of its path or a value of its query that looks like
/// the vendor's ids.
pub fn template(path: &str, query: &str) -> Option<TemplateId> {
    let id = pairs(query).find(|(name, _)| *name == "id").map(|(_, value)| value);
    let parse = |text: &str| TemplateId::parse(decoded(text)?).ok();
    match id.filter(|id| !id.is_empty()) {
        Some(id) => parse(id),
        None => {
            let segments = path.split('/').chain(pairs(query).map(|(_, value)| value));
            segments.filter(|text| looks_like_an_id(text)).find_map(parse)
        }
    }
}

/// As long as a UUID, and made like one; the vendor's are not of any version.
fn looks_like_an_id(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

/// Whether a path is of the web page. One that is served by any controller of a version in the same way.
pub fn is_asset(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or_default();
    let ending = name.rsplit_once('.').filter(|(stem, _)| !stem.is_empty()).map(|(_, ending)| ending);
    ending.is_some_and(|ending| ASSETS.contains(&ending))
}

/// Whether a write to a registry may change what its templates are: all but logs, keys and permissions may.
pub fn may_change_templates(path: &str) -> bool {
    let first = path.split('/').find(|segment| !segment.is_empty());
    !matches!(first, Some("log" | "tap" | "admin")) && path != "/v1/apikey"
}

/// Name and value of each pair, as they came.
fn pairs(query: &str) -> impl Iterator<Item = (&str, &str)> {
    let query = query.strip_prefix('?').unwrap_or(query);
    query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")))
}

/// Without percent signs; `None` if what comes of it is no text. A plus sign means itself: ids and tags have them.
fn decoded(text: &str) -> Option<Cow<'_, str>> {
    if !text.contains('%') {
        return Some(Cow::Borrowed(text));
    }
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let mut digit = || bytes.next().and_then(|byte| char::from(byte).to_digit(16));
        let (high, low) = (digit()?, digit()?);
        out.push(u8::try_from(high * 16 + low).ok()?);
    }
    String::from_utf8(out).ok().map(Cow::Owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "c0ffee11-2233-4455-8677-8899aabbccdd";
    const LAYER: &str = "00112233445566778899aabbccddeeff.ank";

    fn named(path: &str, query: &str) -> Option<String> {
        template(path, query).map(|id| id.to_string())
    }

    #[test]
    fn a_template_is_named_by_its_id_wherever_that_stands() {
        let id = Some(ID.to_owned());
        assert_eq!(named("/registry/vm", &format!("?id={ID}")), id);
        assert_eq!(named("/registry/vm/info", &format!("?tag=a&id={ID}&version=1")), id);
        assert_eq!(named("/registry/vm", "?id=%6dac%2D07"), Some("mac-07".into()));
        assert_eq!(named("/registry/vm", "?id=my-template"), Some("my-template".into()));
        assert_eq!(named(&format!("/registry/pull/{ID}/3"), ""), id);
        assert_eq!(named("/registry/pull", &format!("?vm={ID}")), id);
        for (path, query) in [
            ("/registry/vm", ""),
            ("/registry/vm", "?id="),
            ("/registry/vm", "?ids=x"),
            ("/registry/vm", "?id=%2"),
            ("/registry/vm", "?id=a%2Fb"),
            ("/registry/pull/c0ffee11", "?x"),
        ] {
            assert_eq!(named(path, query), None, "{path}{query}");
        }
    }

    #[test]
    fn a_layer_file_is_known_by_its_name_alone() {
        for (path, query, found) in [
            (format!("/files/images_dir/{LAYER}"), String::new(), true),
            ("/registry/file".into(), format!("?name={LAYER}"), true),
            ("/registry/file".into(), format!("?path=images_dir/{LAYER}"), true),
            (format!("/files/{LAYER}.upload"), String::new(), false),
            (format!("/files/x{LAYER}"), String::new(), false),
            (format!("/files/{LAYER}/x"), String::new(), false),
            ("/files/nvram".into(), String::new(), false),
        ] {
            assert_eq!(layer(&path, &query).is_some(), found, "{path}{query}");
        }
    }

    #[test]
    fn files_of_the_web_page_are_told_by_their_endings() {
        for (path, asset) in [
            ("/static/js/main.0a1b.js", true),
            ("/favicon.ico", true),
            ("/", false),
            ("/.js", false),
            ("/api/v1/vm", false),
            ("/logs/archive.tar.gz", false),
        ] {
            assert_eq!(is_asset(path), asset, "{path}");
        }
    }

    #[test]
    fn logs_and_keys_change_no_template() {
        for (path, may) in [
            ("/registry/revert", true),
            ("/anything", true),
            ("/", true),
            ("/log", false),
            ("/log/event", false),
            ("/logs", true),
            ("/v1/apikey", false),
            ("/tap/v1/hand", false),
            ("/admin/v1/api/permission/group/x/resources", false),
        ] {
            assert_eq!(may_change_templates(path), may, "{path}");
        }
    }
}
