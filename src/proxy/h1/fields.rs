//! Header fields as they came: borrowed, in order, names in any case.

/// The fields of one head.
#[derive(Debug, Clone, Copy)]
pub struct Fields<'a>(&'a [httparse::Header<'a>]);

/// RFC 9110 §5.6.2, `tchar`.
pub fn is_token(byte: u8) -> bool {
    const TABLE: [bool; 256] = {
        let mut table = [false; 256];
        let mut at = 0;
        while at < 256 {
            let byte = at as u8;
            table[at] = byte.is_ascii_alphanumeric()
                || matches!(
                    byte,
                    b'!' | b'#'
                        | b'$'
                        | b'%'
                        | b'&'
                        | b'\''
                        | b'*'
                        | b'+'
                        | b'-'
                        | b'.'
                        | b'^'
                        | b'_'
                        | b'`'
                        | b'|'
                        | b'~'
                );
            at += 1;
        }
        table
    };
    TABLE[byte as usize]
}

/// Whether a field's value may not have this byte: control characters, except the tab.
pub fn is_forbidden(byte: u8) -> bool {
    (byte < 0x20 && byte != b'\t') || byte == 0x7f
}

impl<'a> Fields<'a> {
    /// Of a parsed head.
    pub fn new(parsed: &'a [httparse::Header<'a>]) -> Self {
        Self(parsed)
    }

    /// Each name and value.
    pub fn iter(&self) -> impl Iterator<Item = (&'a str, &'a [u8])> + use<'a> {
        self.0.iter().map(|field| (field.name, field.value))
    }

    /// The values of one name.
    pub fn all<'n>(&self, name: &'n str) -> impl Iterator<Item = &'a [u8]> + use<'a, 'n> {
        self.iter().filter(|(given, _)| given.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// Whether there is one of this name.
    pub fn has(&self, name: &str) -> bool {
        self.all(name).next().is_some()
    }

    /// The first value of this name, if it is visible ASCII.
    pub fn text(&self, name: &str) -> Option<&'a str> {
        text(self.all(name).next()?)
    }

    /// The members of the comma-separated lists under this name.
    pub fn members<'n>(&self, name: &'n str) -> impl Iterator<Item = &'a str> + use<'a, 'n> {
        // Taken apart first: a member that is no text does not hide the others.
        self.all(name)
            .flat_map(|value| value.split(|byte| *byte == b','))
            .filter_map(|member| text(member.trim_ascii()))
    }

    /// Whether a list under this name has this member, in any case.
    pub fn lists(&self, name: &str, member: &str) -> bool {
        self.members(name).any(|given| given.eq_ignore_ascii_case(member))
    }
}

/// A value as text, if all of it is visible ASCII, spaces and tabs.
pub fn text(value: &[u8]) -> Option<&str> {
    let plain = value.iter().all(|byte| matches!(byte, b' '..=b'~' | b'\t'));
    std::str::from_utf8(value).ok().filter(|_| plain)
}
