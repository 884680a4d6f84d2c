//! The last part of a script's output, in bounded memory.

use std::{collections::VecDeque, io::Read};

/// As much of each stream is kept: the vendor's agents cut their reports here, too.
pub(super) const KEPT: usize = 1024 * 1024;

/// The end of a stream.
#[derive(Debug, Default)]
pub(super) struct Tail {
    bytes: VecDeque<u8>,
    dropped: bool,
}

impl Tail {
    /// Takes more; drops the oldest beyond [`KEPT`].
    pub(super) fn push(&mut self, bytes: &[u8]) {
        let bytes = if bytes.len() > KEPT {
            self.dropped = true;
            &bytes[bytes.len() - KEPT..]
        } else {
            bytes
        };
        let over = (self.bytes.len() + bytes.len()).saturating_sub(KEPT);
        self.dropped |= over > 0;
        drop(self.bytes.drain(..over));
        self.bytes.extend(bytes);
    }

    /// As text; bytes that are none are replaced.
    pub(super) fn text(&self) -> String {
        let bytes: Vec<u8> = self.bytes.iter().copied().collect();
        // Cut in the middle of a character, its rest would be shown as garbage.
        let start =
            if self.dropped { bytes.iter().take(3).take_while(|b| **b & 0xC0 == 0x80).count() } else { 0 };
        let mut text = String::from_utf8_lossy(&bytes[start..]).into_owned();
        // Replacements are longer than what they replace.
        while text.len() > KEPT {
            let mut cut = text.len() - KEPT;
            while !text.is_char_boundary(cut) {
                cut += 1;
            }
            text.drain(..cut);
        }
        text
    }
}

/// Reads a stream to its end and hands each piece on.
pub(super) fn drain(mut from: impl Read, mut take: impl FnMut(&[u8])) {
    let mut buffer = [0; 16 * 1024];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return,
            Ok(read) => take(&buffer[..read]),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_output_is_kept_whole() {
        let mut tail = Tail::default();
        tail.push(b"one ");
        tail.push("zwölf".as_bytes());
        assert_eq!(tail.text(), "one zwölf");
    }

    #[test]
    fn of_long_output_the_end_is_kept() {
        let mut tail = Tail::default();
        for _ in 0..3 {
            tail.push(&vec![b'a'; KEPT / 2]);
        }
        tail.push(b"end");
        let text = tail.text();
        assert_eq!(text.len(), KEPT);
        assert!(text.ends_with("aend"));
        tail.push(&vec![b'b'; KEPT * 2]);
        assert_eq!(tail.text(), "b".repeat(KEPT));
    }

    #[test]
    fn a_cut_character_leaves_no_garbage_and_binary_output_stays_bounded() {
        let mut tail = Tail::default();
        tail.push("ö".repeat(KEPT).as_bytes());
        tail.push(b"x");
        assert!(tail.text().trim_end_matches('x').chars().all(|c| c == 'ö'));
        tail.push(&vec![0xFF; KEPT]);
        assert!(tail.text().len() <= KEPT);
    }
}
