//! Which chunks of a blob are here, and how that is written down.

use crate::model::Digest;

/// One bit a chunk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Bits {
    bytes: Vec<u8>,
    len: u32,
    set: u32,
}

impl Bits {
    pub(super) fn new(len: u32) -> Self {
        Self { bytes: vec![0; len.div_ceil(8) as usize], len, set: 0 }
    }

    pub(super) fn get(&self, at: u32) -> bool {
        at < self.len && self.bytes[at as usize / 8] & (1 << (at % 8)) != 0
    }

    /// Tells whether it changed anything. Behind the end there is nothing to change.
    pub(super) fn put(&mut self, at: u32, value: bool) -> bool {
        if at >= self.len || self.get(at) == value {
            return false;
        }
        self.bytes[at as usize / 8] ^= 1 << (at % 8);
        if value {
            self.set += 1;
        } else {
            self.set -= 1;
        }
        true
    }

    pub(super) fn missing(&self) -> impl Iterator<Item = u32> {
        (0..self.len).filter(|at| !self.get(*at))
    }

    pub(super) fn present(&self) -> impl Iterator<Item = u32> {
        (0..self.len).filter(|at| self.get(*at))
    }

    pub(super) fn is_full(&self) -> bool {
        self.set == self.len
    }

    pub(super) fn unset(&self) -> u32 {
        self.len - self.set
    }

    /// The bits, and a digest of them.
    pub(super) fn to_record(&self) -> Vec<u8> {
        let mut out = self.bytes.clone();
        let own = Digest::of(&out);
        out.extend_from_slice(own.as_bytes());
        out
    }

    /// Reads what [`Bits::to_record`] wrote for so many chunks; nothing if it is damaged.
    pub(super) fn from_record(record: &[u8], len: u32) -> Option<Self> {
        let (bytes, own) = record.split_at_checked(record.len().checked_sub(32)?)?;
        if bytes.len() != len.div_ceil(8) as usize || Digest::of(bytes).as_bytes() != own {
            return None;
        }
        let mut read = Self { bytes: bytes.to_vec(), len, set: 0 };
        read.set = u32::try_from(read.present().count()).ok()?;
        // A bit behind the end was not written by us.
        let ones: u32 = read.bytes.iter().map(|byte| byte.count_ones()).sum();
        (ones == read.set).then_some(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_reads_back_as_written_and_a_damaged_one_does_not() {
        for len in [1, 7, 8, 9, 1000] {
            let mut bits = Bits::new(len);
            for at in (0..len).step_by(3) {
                assert!(bits.put(at, true) && !bits.put(at, true));
            }
            assert!(!bits.put(len, true), "behind the end");
            assert_eq!(bits.missing().count() + bits.present().count(), len as usize);
            let record = bits.to_record();
            assert_eq!(Bits::from_record(&record, len), Some(bits));
            assert_eq!(Bits::from_record(&record, len + 8), None);
            for at in 0..record.len() {
                let mut damaged = record.clone();
                damaged[at] ^= 1;
                assert_eq!(Bits::from_record(&damaged, len), None);
            }
        }
        assert_eq!(Bits::from_record(b"", 1), None);
    }
}
