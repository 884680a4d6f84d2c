//! The frames that go over a connection, told one by one as their bytes pass (RFC 9113 §4.1). Looks only; the library
//! reads and writes them.

/// Bytes of one setting.
const SETTING: usize = 6;

/// Bytes before a frame's payload.
const HEAD: usize = 9;

/// And of the payload, where it says why: an error code.
const CODE: usize = 4;

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
pub(super) const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;

/// What can be seen of a frame from its beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) kind: u8,
    flags: u8,
    /// Bytes of its payload.
    pub(super) length: usize,
    /// The error code of a `RST_STREAM`.
    pub(super) code: u32,
}

impl Frame {
    /// `HEADERS` or `CONTINUATION`, after which the block of fields goes on.
    pub(super) fn leaves_open(self) -> bool {
        matches!(self.kind, HEADERS | CONTINUATION) && self.flags & END_HEADERS == 0
    }

    /// The echo of a `PING` or `SETTINGS`.
    pub(super) fn is_ack(self) -> bool {
        self.flags & ACK != 0
    }

    /// Whether it has the length that its kind has. Where only its stream is to be reset for that, the library does it.
    pub(super) fn fits(self) -> bool {
        match self.kind {
            RST_STREAM | WINDOW_UPDATE => self.length == 4,
            SETTINGS if self.is_ack() => self.length == 0,
            SETTINGS => self.length.is_multiple_of(SETTING),
            PING => self.length == 8,
            GOAWAY => self.length >= 8,
            _ => true,
        }
    }

    /// Data that is none, and ends nothing.
    pub(super) fn is_empty_data(self) -> bool {
        self.kind == DATA && self.length == 0 && self.flags & END_STREAM == 0
    }
}

/// Follows one direction of a connection.
#[derive(Debug, Default)]
pub(super) struct Frames {
    head: [u8; HEAD + CODE],
    got: usize,
    /// Bytes that belong to no beginning of a frame.
    skip: usize,
}

impl Frames {
    /// After `skip` bytes that are no frames.
    pub(super) fn after(skip: usize) -> Self {
        Self { skip, ..Self::default() }
    }

    /// Whether a frame has begun of which the rest is yet to come, other than data.
    pub(super) fn is_amid(&self) -> bool {
        self.got > 0 || (self.skip > 0 && self.head.get(3) != Some(&DATA))
    }

    /// Takes the next bytes; `each` is given every frame that begins in them, once what there is to be seen is there.
    pub(super) fn pass(&mut self, mut bytes: &[u8], mut each: impl FnMut(Frame)) {
        while !bytes.is_empty() {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = bytes.get(skipped..).unwrap_or_default();
            let wanted = self.wanted();
            let room = self.head.get_mut(self.got..wanted).unwrap_or_default();
            let taken = room.len().min(bytes.len());
            let (now, rest) = bytes.split_at(taken);
            room[..taken].copy_from_slice(now);
            self.got += taken;
            bytes = rest;
            // The head may have just told that there is more to be seen.
            if self.got < HEAD || self.got < self.wanted() {
                continue;
            }
            let frame = self.frame();
            self.skip = frame.length - (self.got - HEAD);
            self.got = 0;
            each(frame);
        }
    }

    /// Bytes of the frame that are looked at.
    fn wanted(&self) -> usize {
        let code = self.got >= HEAD && self.head[3] == RST_STREAM && self.length() >= CODE;
        if code { HEAD + CODE } else { HEAD }
    }

    fn length(&self) -> usize {
        let [high, middle, low, ..] = self.head;
        usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low)
    }

    fn frame(&self) -> Frame {
        let [.., a, b, c, d] = self.head;
        let code = if self.got > HEAD { u32::from_be_bytes([a, b, c, d]) } else { 0 };
        Frame { kind: self.head[3], flags: self.head[4], length: self.length(), code }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bytes(frame: Frame) -> Vec<u8> {
        let length = u32::try_from(frame.length).unwrap().to_be_bytes();
        let mut out = vec![length[1], length[2], length[3], frame.kind, frame.flags, 0, 0, 0, 1];
        let mut payload = vec![0xee; frame.length];
        if frame.kind == RST_STREAM && frame.length >= CODE {
            payload[..CODE].copy_from_slice(&frame.code.to_be_bytes());
        }
        out.extend_from_slice(&payload);
        out
    }

    proptest! {
        #[test]
        fn each_frame_is_told_however_the_bytes_are_cut(
            frames in prop::collection::vec((0u8..12, any::<u8>(), 0usize..40, any::<u32>()), 0..20),
            cuts in prop::collection::vec(1usize..30, 1..200),
        ) {
            let frames: Vec<Frame> = frames.into_iter().map(|(kind, flags, length, code)| {
                let told = kind == RST_STREAM && length >= CODE;
                Frame { kind, flags, length, code: if told { code } else { 0 } }
            }).collect();
            let whole: Vec<u8> = [0xaa; 7].into_iter().chain(frames.iter().copied().flat_map(bytes)).collect();
            let (mut follow, mut seen, mut at) = (Frames::after(7), Vec::new(), 0);
            for cut in cuts.iter().cycle() {
                let end = (at + cut).min(whole.len());
                follow.pass(&whole[at..end], |frame| seen.push(frame));
                at = end;
                if at == whole.len() { break }
            }
            prop_assert_eq!(seen, frames);
            prop_assert!(!follow.is_amid());
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            Frames::default().pass(&bytes, |_| {});
        }
    }

    #[test]
    fn a_frame_that_has_only_begun_is_seen_to_be_so_unless_it_is_data() {
        for (kind, amid) in [(HEADERS, true), (DATA, false), (4, true)] {
            let whole = bytes(Frame { kind, flags: 0, length: 12, code: 0 });
            let mut follow = Frames::default();
            follow.pass(&whole[..15], |_| {});
            assert_eq!(follow.is_amid(), amid, "{kind}");
            follow.pass(&whole[15..], |_| {});
            assert!(!follow.is_amid());
        }
    }
}
