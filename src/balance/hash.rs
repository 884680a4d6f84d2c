//! The hash that all proxies share. Two of them, of different versions even, must agree on it: it never changes.

/// FNV-1a over the bytes, then mixed, for FNV alone leaves similar names close together.
pub fn hash(bytes: &[u8]) -> u64 {
    let mut state = 0xCBF2_9CE4_8422_2325_u64;
    for byte in bytes {
        state = (state ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01B3);
    }
    mix(state)
}

/// The last step of SplitMix64: every bit depends on every other, and no two numbers become one.
pub fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_what_other_versions_reckon_with() {
        assert_eq!(hash(b""), 0xC381_7C01_6BA4_FF30);
        assert_eq!(hash(b"r1"), 0xC258_6DEC_FC4A_26D0);
        assert_eq!(hash(b"10.0.0.7"), 0xE5E1_1BAA_A702_CE1E);
    }
}
