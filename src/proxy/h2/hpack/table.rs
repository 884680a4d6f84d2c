//! The tables of fields, RFC 7541 §2.3 and appendix A. With each entry of a request stands what its field is: that is
//! found out once, not with each request that means it.

use std::collections::VecDeque;

use super::ENTRY;
use crate::proxy::h1::fields::{is_forbidden, is_token};

/// What a field of a request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `:method`.
    Method,
    /// `:scheme`.
    Scheme,
    /// `:authority`.
    Authority,
    /// `:path`.
    Path,
    /// `host`.
    Host,
    /// `cookie`, or a crumb of it.
    Cookie,
    /// `content-length`.
    Length,
    /// Any other.
    Plain,
    /// There is white space around its value, RFC 9113 §8.2.1.
    Spaced,
    /// One that no request may have: RFC 9113 §8.2 and §8.3.
    Malformed,
}

impl Kind {
    /// What a field is.
    pub(super) fn of(name: &[u8], value: &[u8]) -> Self {
        if value.iter().any(|byte| is_forbidden(*byte)) {
            return Self::Malformed;
        }
        if name.first() == Some(&b':') {
            return match name {
                b":method" => Self::Method,
                b":scheme" => Self::Scheme,
                b":authority" => Self::Authority,
                b":path" => Self::Path,
                _ => Self::Malformed,
            };
        }
        if name.is_empty() || name.iter().any(|byte| !is_token(*byte) || byte.is_ascii_uppercase()) {
            return Self::Malformed;
        }
        match name {
            b"connection" | b"keep-alive" | b"proxy-connection" | b"transfer-encoding" | b"upgrade" => {
                Self::Malformed
            }
            b"te" if value != b"trailers" => Self::Malformed,
            _ if value.trim_ascii().len() < value.len() => Self::Spaced,
            b"host" => Self::Host,
            b"cookie" => Self::Cookie,
            b"content-length" => Self::Length,
            _ => Self::Plain,
        }
    }
}

/// Name, value and kind of a field that stands in a table.
pub(super) type Found<'a> = (&'a [u8], &'a [u8], Kind);

/// Appendix A.
pub(super) static STATIC: [(&[u8], &[u8], Kind); 61] = [
    (b":authority", b"", Kind::Authority),
    (b":method", b"GET", Kind::Method),
    (b":method", b"POST", Kind::Method),
    (b":path", b"/", Kind::Path),
    (b":path", b"/index.html", Kind::Path),
    (b":scheme", b"http", Kind::Scheme),
    (b":scheme", b"https", Kind::Scheme),
    (b":status", b"200", Kind::Malformed),
    (b":status", b"204", Kind::Malformed),
    (b":status", b"206", Kind::Malformed),
    (b":status", b"304", Kind::Malformed),
    (b":status", b"400", Kind::Malformed),
    (b":status", b"404", Kind::Malformed),
    (b":status", b"500", Kind::Malformed),
    (b"accept-charset", b"", Kind::Plain),
    (b"accept-encoding", b"gzip, deflate", Kind::Plain),
    (b"accept-language", b"", Kind::Plain),
    (b"accept-ranges", b"", Kind::Plain),
    (b"accept", b"", Kind::Plain),
    (b"access-control-allow-origin", b"", Kind::Plain),
    (b"age", b"", Kind::Plain),
    (b"allow", b"", Kind::Plain),
    (b"authorization", b"", Kind::Plain),
    (b"cache-control", b"", Kind::Plain),
    (b"content-disposition", b"", Kind::Plain),
    (b"content-encoding", b"", Kind::Plain),
    (b"content-language", b"", Kind::Plain),
    (b"content-length", b"", Kind::Length),
    (b"content-location", b"", Kind::Plain),
    (b"content-range", b"", Kind::Plain),
    (b"content-type", b"", Kind::Plain),
    (b"cookie", b"", Kind::Cookie),
    (b"date", b"", Kind::Plain),
    (b"etag", b"", Kind::Plain),
    (b"expect", b"", Kind::Plain),
    (b"expires", b"", Kind::Plain),
    (b"from", b"", Kind::Plain),
    (b"host", b"", Kind::Host),
    (b"if-match", b"", Kind::Plain),
    (b"if-modified-since", b"", Kind::Plain),
    (b"if-none-match", b"", Kind::Plain),
    (b"if-range", b"", Kind::Plain),
    (b"if-unmodified-since", b"", Kind::Plain),
    (b"last-modified", b"", Kind::Plain),
    (b"link", b"", Kind::Plain),
    (b"location", b"", Kind::Plain),
    (b"max-forwards", b"", Kind::Plain),
    (b"proxy-authenticate", b"", Kind::Plain),
    (b"proxy-authorization", b"", Kind::Plain),
    (b"range", b"", Kind::Plain),
    (b"referer", b"", Kind::Plain),
    (b"refresh", b"", Kind::Plain),
    (b"retry-after", b"", Kind::Plain),
    (b"server", b"", Kind::Plain),
    (b"set-cookie", b"", Kind::Plain),
    (b"strict-transport-security", b"", Kind::Plain),
    (b"transfer-encoding", b"", Kind::Malformed),
    (b"user-agent", b"", Kind::Plain),
    (b"vary", b"", Kind::Plain),
    (b"via", b"", Kind::Plain),
    (b"www-authenticate", b"", Kind::Plain),
];

/// One entry: a name and a value behind each other.
#[derive(Debug)]
pub(super) struct Entry {
    text: Box<[u8]>,
    name: usize,
    kind: Kind,
    /// Of both, for who looks for it.
    pub(super) hash: u32,
}

impl Entry {
    pub(super) fn new(name: &[u8], value: &[u8], kind: Kind, hash: u32) -> Self {
        Self { text: [name, value].concat().into_boxed_slice(), name: name.len(), kind, hash }
    }

    pub(super) fn size(&self) -> usize {
        self.text.len() + ENTRY
    }

    pub(super) fn get(&self) -> Found<'_> {
        let (name, value) = self.text.split_at_checked(self.name).unwrap_or_default();
        (name, value, self.kind)
    }
}

/// The table that grows with what was said.
#[derive(Debug)]
pub(super) struct Table {
    /// The newest is the first.
    entries: VecDeque<Entry>,
    size: usize,
    most: usize,
}

impl Table {
    pub(super) fn new(most: usize) -> Self {
        Self { entries: VecDeque::new(), size: 0, most }
    }

    /// Bytes that it may have.
    pub(super) fn most(&self) -> usize {
        self.most
    }

    pub(super) fn resize(&mut self, most: usize) {
        self.most = most;
        self.shrink(most);
    }

    fn shrink(&mut self, most: usize) {
        while self.size > most
            && let Some(oldest) = self.entries.pop_back()
        {
            self.size -= oldest.size();
        }
        debug_assert!(self.size == self.entries.iter().map(Entry::size).sum::<usize>());
    }

    /// One that is larger than the table empties it, and is not in it (§4.4).
    pub(super) fn insert(&mut self, entry: Entry) {
        let size = entry.size();
        self.shrink(self.most.saturating_sub(size));
        if size <= self.most {
            self.size += size;
            self.entries.push_front(entry);
        }
    }

    /// The one at this place of both tables, which are counted from 1.
    pub(super) fn get(&self, place: usize) -> Option<Found<'_>> {
        let place = place.checked_sub(1)?;
        match STATIC.get(place) {
            Some(found) => Some(*found),
            None => self.entries.get(place - STATIC.len()).map(Entry::get),
        }
    }

    /// Places behind the static ones, the newest first.
    pub(super) fn entries(&self) -> impl Iterator<Item = (usize, &Entry)> {
        self.entries.iter().enumerate().map(|(at, entry)| (at + STATIC.len() + 1, entry))
    }
}
