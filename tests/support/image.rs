//! A template as an OCI layout on disk: layers of seeded noise, which no compression makes smaller.

use std::{
    fs,
    io::{BufWriter, Write},
    path::{Path, PathBuf},
};

use serde_json::json;
use sha2::{Digest, Sha256};

/// An OCI layout that `skopeo` copies with its `oci:` transport.
pub struct Image {
    pub layout: PathBuf,
    pub manifest: String,
    /// Digest and size of each layer.
    pub layers: Vec<(String, u64)>,
}

const MIB: usize = 1 << 20;

impl Image {
    /// Writes an image of `layers` layers of `mib` MiB each into `layout`. The same seed gives the same digests.
    pub fn write(layout: &Path, seed: u64, layers: usize, mib: usize) -> Self {
        let blobs = layout.join("blobs/sha256");
        fs::create_dir_all(&blobs).expect("a layout directory");
        let layers: Vec<(String, u64)> =
            (0..layers).map(|n| noise(&blobs, seed.wrapping_mul(1000).wrapping_add(n as u64), mib)).collect();
        let config = json!({
            "architecture": "arm64", "os": "darwin", "config": {},
            "rootfs": { "type": "layers", "diff_ids": layers.iter().map(|(d, _)| d).collect::<Vec<_>>() },
            "history": [],
        });
        let (config, config_size) = blob(&blobs, config.to_string().as_bytes());
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": { "mediaType": "application/vnd.oci.image.config.v1+json", "digest": config, "size": config_size },
            "layers": layers.iter().map(|(digest, size)| json!({
                "mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest, "size": size,
            })).collect::<Vec<_>>(),
        });
        let (manifest, size) = blob(&blobs, manifest.to_string().as_bytes());
        let index = json!({
            "schemaVersion": 2,
            "manifests": [{
                "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": manifest, "size": size,
            }],
        });
        fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).expect("a layout file");
        fs::write(layout.join("index.json"), index.to_string()).expect("an index");
        Self { layout: layout.to_owned(), manifest, layers }
    }
}

fn blob(blobs: &Path, content: &[u8]) -> (String, u64) {
    let digest = hex::encode(Sha256::digest(content));
    fs::write(blobs.join(&digest), content).expect("a blob");
    (format!("sha256:{digest}"), content.len() as u64)
}

/// A layer of noise: xorshift64*, eight bytes at a step.
fn noise(blobs: &Path, seed: u64, mib: usize) -> (String, u64) {
    let beside = blobs.join(format!("new-{seed}"));
    let mut file = BufWriter::with_capacity(MIB, fs::File::create(&beside).expect("a layer file"));
    let (mut hash, mut buffer) = (Sha256::new(), vec![0; MIB]);
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    for _ in 0..mib {
        for chunk in buffer.chunks_exact_mut(8) {
            state ^= state >> 12;
            state ^= state << 25;
            state ^= state >> 27;
            chunk.copy_from_slice(&state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
        }
        hash.update(&buffer);
        file.write_all(&buffer).expect("room for a layer");
    }
    file.flush().expect("room for a layer");
    let digest = hex::encode(hash.finalize());
    fs::rename(&beside, blobs.join(&digest)).expect("a rename");
    (format!("sha256:{digest}"), (mib * MIB) as u64)
}
