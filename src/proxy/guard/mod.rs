//! Step 2: refuses what two servers could read differently, and says which headers an outsider may not send.
//!
//! [`head`] looks at the raw bytes before any parser tidies them up; [`path`] brings the path into the one
//! form that is both decided on and forwarded; [`identity`] names the headers that only a proxy may set.

pub mod head;
pub mod identity;
pub mod path;

/// Why a request was turned away before it was looked at any closer. The connection is closed after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Refusal {
    /// Past `header_bytes`.
    #[error("the request head is longer than this server allows")]
    HeadTooLong,
    /// Past `headers`.
    #[error("the request has more header fields than this server allows")]
    TooManyHeaders,
    /// Past `header_timeout`.
    #[error("the request head did not arrive in time")]
    HeadTooSlow,
    /// No byte of the body for as long as a body may stand still.
    #[error("the request body stopped arriving")]
    BodyTooSlow,
    /// Broken chunks, mostly.
    #[error("the request body is not framed as its head says")]
    BadBody,
    /// Past what `limits.body` allows its class.
    #[error("the request body is larger than this server allows")]
    BodyTooLarge,
    /// No request line.
    #[error("the request line is not one of HTTP/1")]
    BadRequestLine,
    /// Neither 1.0 nor 1.1.
    #[error("only HTTP/1.0 and HTTP/1.1 are spoken here")]
    BadVersion,
    /// Tunnels are not for this proxy.
    #[error("CONNECT is not allowed here")]
    Connect,
    /// CR without LF or LF without CR.
    #[error("a line of the request head does not end in CR LF")]
    BareLineEnd,
    /// A continued header line.
    #[error("a header field is folded over several lines")]
    Folded,
    /// Control characters.
    #[error("the request head has a forbidden byte")]
    ForbiddenByte,
    /// Not a token, or white space before the colon.
    #[error("a header field has a bad name")]
    BadHeaderName,
    /// HTTP/1.1 without `Host`.
    #[error("the Host header is missing")]
    NoHost,
    /// More than one `Host`, or one that is not a host.
    #[error("the Host header is repeated or is not a host")]
    BadHost,
    /// Absolute form and `Host` disagree.
    #[error("the host of the request target is not the one of the Host header")]
    OtherHost,
    /// `Content-Length` and `Transfer-Encoding`.
    #[error("both Content-Length and Transfer-Encoding are given")]
    BothLengths,
    /// Not a number, or more than one.
    #[error("Content-Length is repeated or is not a number")]
    BadLength,
    /// Not one final `chunked`.
    #[error("the only Transfer-Encoding taken is one final `chunked`, on HTTP/1.1")]
    BadCoding,
    /// Plain HTTP where TLS is spoken.
    #[error("this port speaks TLS: use https")]
    PlainHttp,
    /// Dot segments, encoded slashes and the like.
    #[error("the path could be read in more than one way: {0}")]
    AmbiguousPath(&'static str),
}

impl Refusal {
    /// The status to answer with.
    pub fn status(self) -> u16 {
        match self {
            Self::HeadTooLong | Self::TooManyHeaders => 431,
            Self::BodyTooLarge => 413,
            Self::HeadTooSlow | Self::BodyTooSlow => 408,
            Self::BadVersion => 505,
            Self::Connect => 405,
            Self::BadCoding => 501,
            _ => 400,
        }
    }

    /// The label of metrics and logs.
    pub fn reason(self) -> &'static str {
        match self {
            Self::HeadTooLong => "head-too-long",
            Self::TooManyHeaders => "too-many-headers",
            Self::HeadTooSlow => "head-too-slow",
            Self::BodyTooSlow => "body-too-slow",
            Self::BadBody => "bad-body",
            Self::BodyTooLarge => "body-too-large",
            Self::BadRequestLine => "bad-request-line",
            Self::BadVersion => "bad-version",
            Self::Connect => "connect",
            Self::BareLineEnd => "bare-line-end",
            Self::Folded => "folded-header",
            Self::ForbiddenByte => "forbidden-byte",
            Self::BadHeaderName => "bad-header-name",
            Self::NoHost => "no-host",
            Self::BadHost => "bad-host",
            Self::OtherHost => "other-host",
            Self::BothLengths => "both-lengths",
            Self::BadLength => "bad-length",
            Self::BadCoding => "bad-coding",
            Self::PlainHttp => "plain-http",
            Self::AmbiguousPath(_) => "ambiguous-path",
        }
    }

    /// What the caller can do.
    pub fn next(self) -> &'static str {
        match self {
            Self::HeadTooLong => {
                "send shorter header fields, or ask the operator to raise `limits.header_bytes`"
            }
            Self::TooManyHeaders => "send fewer header fields, or ask the operator to raise `limits.headers`",
            Self::HeadTooSlow => "send it again, the whole head at once",
            Self::BodyTooSlow => {
                "send it again; if it is slow by itself, ask the operator about `timeouts.idle`"
            }
            Self::BodyTooLarge => "send less, or ask the operator to raise `limits.body`",
            Self::BadVersion => "send it as HTTP/1.1",
            Self::Connect => "send the request itself: this is no forward proxy",
            Self::NoHost | Self::BadHost => "name the host once, as in the address",
            Self::OtherHost => "send the path alone, or the same host in both",
            Self::BothLengths | Self::BadLength => "give the length of the body once, in one way",
            Self::BadCoding => "send the body with a length or in plain chunks",
            Self::PlainHttp => "use an address that begins with https://",
            Self::AmbiguousPath(_) => "send the path without dot segments, percent-encoded once",
            Self::BadBody
            | Self::BadRequestLine
            | Self::BareLineEnd
            | Self::Folded
            | Self::ForbiddenByte
            | Self::BadHeaderName => "send one well-formed HTTP/1.1 request",
        }
    }
}

#[cfg(test)]
impl Refusal {
    /// Each of them; the page has as many.
    pub(crate) const ALL: [Self; 21] = [
        Self::HeadTooLong,
        Self::TooManyHeaders,
        Self::HeadTooSlow,
        Self::BodyTooSlow,
        Self::BadBody,
        Self::BodyTooLarge,
        Self::BadRequestLine,
        Self::BadVersion,
        Self::Connect,
        Self::BareLineEnd,
        Self::Folded,
        Self::ForbiddenByte,
        Self::BadHeaderName,
        Self::NoHost,
        Self::BadHost,
        Self::OtherHost,
        Self::BothLengths,
        Self::BadLength,
        Self::BadCoding,
        Self::PlainHttp,
        Self::AmbiguousPath(""),
    ];
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_names_every_refusal_with_its_status() {
        let page = include_str!("../../../docs/http.md");
        let (_, table) = page.split_once("## What is refused").unwrap();
        let (table, _) = table.split_once("\n## ").unwrap();
        let rows: Vec<&str> = table.lines().filter(|line| line.starts_with("| `")).collect();
        let wanted: Vec<String> = Refusal::ALL
            .iter()
            .map(|refusal| format!("| `{}` | {} |", refusal.reason(), refusal.status()))
            .collect();
        assert_eq!(rows.len(), wanted.len());
        for (row, wanted) in rows.iter().zip(&wanted) {
            assert!(row.starts_with(wanted), "{row}: {wanted}");
        }
    }
}
