//! A tiny image, as an OCI layout, so that the first push needs nothing from anywhere.
//!
//! OCI Image Layout 1.0: `oci-layout`, `index.json`, `blobs/sha256/<hex>`. The layer is an empty tar archive:
//! two blocks of zeros.

use std::{fs, io, path::Path};

use serde_json::json;

use crate::model::Digest;

/// Writes the layout; writing it again changes nothing.
pub(super) fn write(dir: &Path) -> io::Result<()> {
    let blobs = dir.join("blobs/sha256");
    fs::create_dir_all(&blobs)?;
    let (layer, layer_size) = blob(&blobs, &[0; 1024])?;
    let config = json!({
        "architecture": "arm64", "os": "darwin", "config": {},
        "rootfs": { "type": "layers", "diff_ids": [layer] },
    });
    let (config, config_size) = blob(&blobs, config.to_string().as_bytes())?;
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json", "digest": config, "size": config_size,
        },
        "layers": [{
            "mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": layer, "size": layer_size,
        }],
    });
    let (manifest, size) = blob(&blobs, manifest.to_string().as_bytes())?;
    let index = json!({
        "schemaVersion": 2,
        "manifests": [{
            "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": manifest, "size": size,
        }],
    });
    fs::write(dir.join("index.json"), index.to_string())?;
    fs::write(dir.join("oci-layout"), json!({ "imageLayoutVersion": "1.0.0" }).to_string())
}

/// Its digest and size.
fn blob(blobs: &Path, content: &[u8]) -> io::Result<(String, usize)> {
    let digest = Digest::of(content);
    fs::write(blobs.join(digest.hex()), content)?;
    Ok((digest.to_string(), content.len()))
}
