//! `rbuild import`: an image of a root file system archive.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::json;
use snapshotter::layer::import_rootfs;
use snapshotter::store::tags::{LayerRef, TagEntry};
use snapshotter::Store;
use solver::graph::Platform;

use super::failure::Failure;
use super::name::of_new_image;
use super::owners;
use super::request::reason;
use crate::rfc3339::Time;

/// `rbuild import`
pub(super) fn import(store: &Store, file: &Path, name: &str) -> Result<u8, Failure> {
    let name = of_new_image(name)?;
    let source: Box<dyn Read + Send> = if file == Path::new("-") {
        Box::new(io::stdin())
    } else {
        Box::new(File::open(file).map_err(|e| Failure::user(format!("{}: {}", file.display(), reason(&e))))?)
    };
    let lease = store.lease()?;
    let made = import_rootfs(store, &lease, source).map_err(|e| {
        let help = owners::help(&e).map(|help| format!("\nhelp: {help}")).unwrap_or_default();
        Failure::user(format!("import {}: {}{help}", file.display(), super::failure::chain(&e)))
    })?;
    if made.devices_left_out > 0 {
        eprintln!("WARNING: {} device nodes were left out: only root may make them", made.devices_left_out);
    }
    let made = made.snapshot;
    let diff_id = made.diff_id.ok_or_else(|| Failure::user("import: the layer has no diff id".to_string()))?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() as i64;
    let created = Time::from_seconds(now).to_string();
    let host = Platform::host();
    let config = json!({
        "architecture": host.architecture,
        "config": {},
        "created": created,
        "history": [{ "created": created, "comment": "imported by rbuild" }],
        "os": host.os,
        "rootfs": { "type": "layers", "diff_ids": [diff_id.to_string()] },
    });
    let image = store.put_blob(&lease, &serde_json::to_vec(&config)?)?;
    let entry = TagEntry {
        name: None,
        image,
        manifest: None,
        platform: Some(host.to_string()),
        layers: vec![LayerRef { diff_id, snapshot: Some(made.id), blob: None }],
        variants: Vec::new(),
        keeps: Vec::new(),
        created: now,
        extra: serde_json::Value::Null,
    };
    store.set_tag(&name, &entry)?;
    println!("{image}");
    Ok(0)
}
