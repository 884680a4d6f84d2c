//! RSA, for API keys: made here or by clients, 2048 to 4096 bits; what is sent to a key's holder is encrypted to it
//! by OAEP with SHA-256.

use std::{fs::File, io::Read, path::Path, sync::Arc};

use aws_lc_rs::{
    encoding::{AsDer, PublicKeyX509Der},
    rsa::{KeyPair, KeySize, OAEP_SHA256_MGF1SHA256, OaepPrivateDecryptingKey, OaepPublicEncryptingKey},
    rsa::{PrivateDecryptingKey, PublicEncryptingKey},
    signature::KeyPair as _,
};

use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};

/// Sizes that are taken, in bits. A smaller key can be broken, a larger one costs every handshake more.
const BITS: std::ops::RangeInclusive<usize> = 2048..=4096;

/// Longest text of a key that is looked at.
const LONGEST: usize = 16 * 1024;

/// A key could not be made or used: the library's fault, and it does not say which.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the cryptographic library failed")]
pub struct Failed;

/// The half that is stored. Cheap to clone.
#[derive(Clone)]
pub struct PublicKey(Arc<OaepPublicEncryptingKey>);

impl PublicKey {
    /// Out of base64 of a `SubjectPublicKeyInfo` (PKIX), in PEM or bare; tells what is wrong with it.
    pub fn read(text: &str) -> Result<(Self, Vec<u8>), String> {
        let der = bytes_of(text).ok_or("is not base64 of a public key (PKIX DER)")?;
        Ok((Self::of(&der)?, der))
    }

    /// Out of PKIX DER.
    pub fn of(der: &[u8]) -> Result<Self, String> {
        let key = PublicEncryptingKey::from_der(der)
            .map_err(|_| "is no RSA public key in PKIX form (SubjectPublicKeyInfo); `openssl pkey -pubout -outform DER | base64 -w0` writes one")?;
        let bits = key.key_size_bits();
        if !BITS.contains(&bits) {
            return Err(format!("has {bits} bits, and those taken are {} to {}", BITS.start(), BITS.end()));
        }
        let key = OaepPublicEncryptingKey::new(key).map_err(|_| "cannot be used for encryption")?;
        Ok(Self(Arc::new(key)))
    }

    /// Encrypts a short text to whoever has the other half.
    pub fn encrypt(&self, text: &[u8]) -> Result<Vec<u8>, Failed> {
        let mut out = vec![0; self.0.ciphertext_size()];
        let written =
            self.0.encrypt(&OAEP_SHA256_MGF1SHA256, text, &mut out, None).map_err(|_| Failed)?.len();
        out.truncate(written);
        Ok(out)
    }
}

/// The half that its holder keeps.
pub struct PrivateKey(OaepPrivateDecryptingKey);

/// Without the key.
impl std::fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("(private key)")
    }
}

impl PrivateKey {
    /// Out of PEM, or of base64 without armour: PKCS#1 as servers make it, or PKCS#8. No error shows any of it.
    pub fn read(text: &str) -> Result<Self, &'static str> {
        const WHAT: &str =
            "has no RSA private key, in PEM or as its base64 alone (PKCS#1 or PKCS#8, not encrypted)";
        let der = bytes_of(text).ok_or(WHAT)?;
        let pair = KeyPair::from_der(&der).or_else(|_| KeyPair::from_pkcs8(&der)).map_err(|_| WHAT)?;
        let whole = pair.as_der().map_err(|_| WHAT)?;
        let key = PrivateDecryptingKey::from_pkcs8(whole.as_ref()).map_err(|_| WHAT)?;
        OaepPrivateDecryptingKey::new(key).map(Self).map_err(|_| WHAT)
    }

    /// Out of a file, as [`PrivateKey::read`]. Blocks while it reads.
    pub fn read_file(file: &Path) -> Result<Self, String> {
        let mut text = String::new();
        // Bounded also if it is no file that ends.
        let read = File::open(file).and_then(|file| file.take(LONGEST as u64 + 1).read_to_string(&mut text));
        read.map_err(|error| format!("cannot be read ({error})"))?;
        Self::read(&text).map_err(str::to_owned)
    }

    /// Undoes [`PublicKey::encrypt`].
    pub fn decrypt(&self, sealed: &[u8]) -> Result<Vec<u8>, Failed> {
        let mut out = vec![0; self.0.min_output_size()];
        let written =
            self.0.decrypt(&OAEP_SHA256_MGF1SHA256, sealed, &mut out, None).map_err(|_| Failed)?.len();
        out.truncate(written);
        Ok(out)
    }
}

/// Makes a pair of 2048 bits: the private half in PKCS#1 DER, the public one in PKIX DER. Takes a tenth of a second.
pub fn generate() -> Result<(Vec<u8>, Vec<u8>), Failed> {
    let pair = KeyPair::generate(KeySize::Rsa2048).map_err(|_| Failed)?;
    let public: PublicKeyX509Der<'_> = pair.public_key().as_der().map_err(|_| Failed)?;
    let private = pair.as_der().map_err(|_| Failed)?;
    Ok((inner(private.as_ref()).ok_or(Failed)?.to_vec(), public.as_ref().to_vec()))
}

/// The PKCS#1 key inside a PKCS#8 one: `SEQUENCE { INTEGER 0, SEQUENCE algorithm, OCTET STRING key }`.
fn inner(pkcs8: &[u8]) -> Option<&[u8]> {
    let (whole, _) = value(pkcs8, 0x30)?;
    let (_, rest) = value(whole, 0x02)?;
    let (_, rest) = value(rest, 0x30)?;
    value(rest, 0x04).map(|(key, _)| key)
}

/// One value of DER with this tag, and what is behind it.
fn value(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&found, rest) = der.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81..=0x84 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    (found == tag).then_some(())?;
    rest.split_at_checked(length)
}

/// What is between the lines of PEM, or the whole text, as bytes.
fn bytes_of(text: &str) -> Option<Vec<u8>> {
    if text.len() > LONGEST {
        return None;
    }
    let body: String = text.lines().map(str::trim).filter(|line| !line.starts_with("-----")).collect();
    decode(&body).filter(|bytes| !bytes.is_empty())
}

/// Base64 in either alphabet, padded or not, with blanks in it that some tools put there.
pub fn decode(text: &str) -> Option<Vec<u8>> {
    const ANY: GeneralPurpose = GeneralPurpose::new(
        &alphabet::STANDARD,
        GeneralPurposeConfig::new()
            .with_decode_padding_mode(DecodePaddingMode::Indifferent)
            .with_decode_allow_trailing_bits(false),
    );
    let plain = |byte: u8| match byte {
        b'-' => b'+',
        b'_' => b'/',
        other => other,
    };
    let text: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).map(plain).collect();
    ANY.decode(text).ok()
}

#[cfg(test)]
mod tests {
    use base64::{Engine as _, engine::general_purpose::STANDARD};

    use super::*;

    #[test]
    fn what_is_encrypted_to_a_key_is_read_by_its_holder_alone() {
        let (private, public) = generate().unwrap();
        let (key, der) = PublicKey::read(&STANDARD.encode(&public)).unwrap();
        assert_eq!(der, public);
        let sealed = key.encrypt(b"a secret").unwrap();
        let holder = PrivateKey::read(&STANDARD.encode(&private)).unwrap();
        assert_eq!(holder.decrypt(&sealed).unwrap(), b"a secret");
        assert!(!format!("{holder:?}").contains('0'));
        let pem = format!(
            "-----BEGIN RSA PRIVATE KEY-----\r\n{}\r\n-----END RSA PRIVATE KEY-----\r\n",
            STANDARD.encode(&private)
        );
        assert_eq!(PrivateKey::read(&pem).unwrap().decrypt(&sealed).unwrap(), b"a secret");
        let (other, _) = generate().unwrap();
        assert_eq!(PrivateKey::read(&STANDARD.encode(other)).unwrap().decrypt(&sealed), Err(Failed));
    }

    #[test]
    fn what_is_no_key_or_one_of_a_wrong_size_is_refused_with_words() {
        let (private, public) = generate().unwrap();
        let small = "MFwwDQYJKoZIhvcNAQEBBQADSwAwSAJBAKj34GkxFhD90vcNLYLInFEX6Ppy1tPf9Cnzj4p4WGeKLs1Pt8QuKUpRKfFLfRYC9AIKjbJTWit+CqvjWYzvQwECAwEAAQ==";
        for (bad, words) in [
            (small.to_owned(), "bits"),
            (STANDARD.encode(&private), "no RSA public key"),
            (STANDARD.encode(&public[..100]), "no RSA public key"),
            (String::new(), "not base64"),
            ("%%%".into(), "not base64"),
            ("A".repeat(LONGEST + 1), "not base64"),
        ] {
            let why = PublicKey::read(&bad).err().unwrap();
            // Keys below 1024 bits are refused by the library already.
            assert!(why.contains(words) || (words == "bits" && why.contains("no RSA")), "{why}");
        }
        assert!(PrivateKey::read(&STANDARD.encode(&public)).is_err());
    }

    #[test]
    fn der_that_lies_about_its_length_is_nothing() {
        for der in [
            &[][..],
            &[0x30],
            &[0x30, 0x05, 1],
            &[0x30, 0x84, 0xff, 0xff, 0xff, 0xff],
            &[0x30, 0x80],
            &[0x04, 0],
        ] {
            assert_eq!(inner(der), None, "{der:?}");
        }
    }
}
