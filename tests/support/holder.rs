//! Whoever holds an API key, with the tools that users have: `openssl` and base64.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::Value;
use tempfile::TempDir;

/// A private key in a file.
pub struct Holder {
    dir: TempDir,
    form: &'static str,
}

impl Holder {
    /// With what a server has made: base64 of PKCS#1 DER.
    pub fn given(body: &Value) -> Self {
        let text = body.as_str().unwrap_or_else(|| panic!("no private key: {body}"));
        let der = STANDARD.decode(text).expect("standard base64, without armour and line ends");
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::write(dir.path().join("key"), der).expect("it can be written");
        Self { dir, form: "DER" }
    }

    /// With a key of its own; tells the public half as it is sent.
    pub fn own(bits: u32) -> (Self, String) {
        let dir = tempfile::tempdir().expect("a directory");
        let holder = Self { dir, form: "PEM" };
        let key = holder.key();
        openssl(&["genrsa", "-out", path(&key), &bits.to_string()]);
        let public = openssl(&["pkey", "-in", path(&key), "-pubout", "-outform", "DER"]);
        (holder, STANDARD.encode(public))
    }

    /// Reads what `/tap/v1/hand` answered.
    pub fn decrypt(&self, handed: &str) -> String {
        let (sealed, key) = (self.dir.path().join("sealed"), self.key());
        std::fs::write(&sealed, STANDARD.decode(handed).expect("standard base64"))
            .expect("it can be written");
        let secret = openssl(&[
            "pkeyutl",
            "-decrypt",
            "-in",
            path(&sealed),
            "-inkey",
            path(&key),
            "-keyform",
            self.form,
            "-pkeyopt",
            "rsa_padding_mode:oaep",
            "-pkeyopt",
            "rsa_oaep_md:sha256",
        ]);
        String::from_utf8(secret).expect("a text")
    }

    /// The file that its private half is in.
    pub fn key(&self) -> PathBuf {
        self.dir.path().join("key")
    }
}

/// `Authorization` with the `data` of `/tap/v1/shake`.
pub fn bearer(shaken: &str) -> String {
    let shaken: Value = serde_json::from_str(shaken).unwrap_or_else(|error| panic!("{error}: {shaken}"));
    // As jq prints it.
    let data = serde_json::to_string_pretty(&shaken["data"]).expect("JSON");
    format!("Bearer {}", STANDARD.encode(data))
}

fn path(path: &Path) -> &str {
    path.to_str().expect("a path of letters")
}

fn openssl(arguments: &[&str]) -> Vec<u8> {
    let out = Command::new("openssl").args(arguments).stdin(Stdio::null()).output().expect("openssl starts");
    assert!(out.status.success(), "openssl {arguments:?}: {}", String::from_utf8_lossy(&out.stderr));
    out.stdout
}
