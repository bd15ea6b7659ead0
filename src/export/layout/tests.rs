//! Layouts looked at entry by entry, and by other tools.

use std::collections::BTreeMap;
use std::process::{Command, Output};

use serde_json::Value;

use super::*;
use crate::image::{assemble, assemble_index, Assembly, Codec, DiffId, LayerInfo};

/// A layer tar with one file, and an image of `count` such layers.
fn image(family: Family, count: usize) -> (Assembled, BTreeMap<Digest, Vec<u8>>) {
    let mut blobs = BTreeMap::new();
    let layers: Vec<LayerInfo> = (0..count)
        .map(|n| {
            let mut builder = tar::Builder::new(Vec::new());
            let text = format!("file {n}");
            let header = header(&format!("file{n}"), tar::EntryType::Regular, 0o644, text.len() as u64).unwrap();
            builder.append(&header, text.as_bytes()).unwrap();
            let bytes = builder.into_inner().unwrap();
            let descriptor = Descriptor::of(family.layer(Codec::Plain), &bytes);
            let diff_id = DiffId(descriptor.digest);
            blobs.insert(descriptor.digest, bytes);
            LayerInfo { diff_id, descriptor, created: None, created_by: Some(format!("COPY file{n} /")) }
        })
        .collect();
    let host = Platform::host();
    let config = json!({"os": host.os, "architecture": host.architecture, "config": {"Cmd": ["sh"]}});
    let how = Assembly { family, now: Time::from_seconds(1_700_000_000), ..Assembly::default() };
    (assemble(config, &layers, &how).unwrap(), blobs)
}

fn opener(blobs: BTreeMap<Digest, Vec<u8>>) -> impl Fn(&Digest) -> io::Result<Box<dyn Read>> {
    move |digest| {
        let bytes = blobs.get(digest).cloned().ok_or(io::ErrorKind::NotFound)?;
        Ok(Box::new(io::Cursor::new(bytes)))
    }
}

fn bundle(image: &Assembled, names: &[&str]) -> Bundle {
    let names = names.iter().map(|name| name.parse().unwrap()).collect();
    Bundle::single(image).named(names, Time::from_seconds(1_700_000_000))
}

/// Path, kind, mode, time and content of every entry.
fn entries(archive: &Path) -> Vec<(String, u32, u64, Vec<u8>)> {
    let mut archive = tar::Archive::new(File::open(archive).unwrap());
    let entry = |entry: io::Result<tar::Entry<File>>| {
        let mut entry = entry.unwrap();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        let header = entry.header();
        let path = String::from_utf8(entry.path_bytes().into_owned()).unwrap();
        (path, header.mode().unwrap(), header.mtime().unwrap(), bytes)
    };
    archive.entries().unwrap().map(entry).collect()
}

fn json_of(entries: &[(String, u32, u64, Vec<u8>)], path: &str) -> Value {
    let entry = entries.iter().find(|entry| entry.0 == path);
    serde_json::from_slice(&entry.unwrap_or_else(|| panic!("no {path}")).3).unwrap()
}

#[test]
fn an_oci_archive_has_exactly_these_entries() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("out.tar");
    let (image, blobs) = image(Family::Oci, 2);
    let bundle = bundle(&image, &["app:1.0", "ghcr.io/o/app"]);
    let open = opener(blobs.clone());
    write_archive(&bundle, Flavour::Oci, &open, &Dest::Path(path.clone())).unwrap();

    let got = entries(&path);
    let mut want: Vec<(String, u32)> = vec![("blobs/".into(), 0o755), ("blobs/sha256/".into(), 0o755)];
    let mut digests: Vec<Digest> = blobs.keys().copied().chain([image.config_digest, image.manifest_digest]).collect();
    digests.sort();
    want.extend(digests.iter().map(|digest| (format!("blobs/sha256/{}", digest.hex()), 0o444)));
    want.extend([("index.json".into(), 0o644), ("oci-layout".into(), 0o444)]);
    assert_eq!(got.iter().map(|e| (e.0.clone(), e.1)).collect::<Vec<_>>(), want);
    assert!(got.iter().all(|e| e.2 == 0), "times are zero");
    for entry in got.iter().filter(|e| e.0.len() > 20) {
        assert_eq!(entry.0, format!("blobs/sha256/{}", Digest::of(&entry.3).hex()));
    }
    assert_eq!(json_of(&got, "oci-layout"), json!({"imageLayoutVersion": "1.0.0"}));
    let named = |full: &str, tag: &str| {
        json!({
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": image.manifest_digest,
            "size": image.manifest.len(),
            "annotations": {
                "io.containerd.image.name": full,
                "org.opencontainers.image.created": "2023-11-14T22:13:20Z",
                "org.opencontainers.image.ref.name": tag,
            },
        })
    };
    let want = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [named("docker.io/library/app:1.0", "1.0"), named("ghcr.io/o/app:latest", "latest")],
    });
    assert_eq!(json_of(&got, "index.json"), want);

    let first = fs::read(&path).unwrap();
    write_archive(&bundle, Flavour::Oci, &open, &Dest::Path(path.clone())).unwrap();
    assert_eq!(fs::read(&path).unwrap(), first, "equal images give equal bytes");
}

#[test]
fn a_docker_archive_adds_what_docker_load_reads() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("out.tar");
    let (image, blobs) = image(Family::Docker, 2);
    let layers: Vec<_> = image.document.layers.iter().map(|l| format!("blobs/sha256/{}", l.digest.hex())).collect();
    let open = opener(blobs);
    for (names, tags) in
        [(&["app", "ghcr.io/o/app:2"][..], json!(["app:latest", "ghcr.io/o/app:2"])), (&[], json!(null))]
    {
        write_archive(&bundle(&image, names), Flavour::Docker, &open, &Dest::Path(path.clone())).unwrap();
        let config = format!("blobs/sha256/{}", image.config_digest.hex());
        let want = json!([{"Config": config, "RepoTags": tags, "Layers": layers}]);
        let got = entries(&path);
        assert_eq!(json_of(&got, "manifest.json"), want);
        assert_eq!(json_of(&got, "index.json")["manifests"].as_array().unwrap().len(), names.len().max(1));
    }
}

#[test]
fn an_index_brings_all_its_images() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("out.tar");
    let (native, blobs) = image(Family::Oci, 1);
    let mut other = image(Family::Oci, 1).0;
    other.platform.architecture = "s390x".into();
    let descriptors = [&other, &native].map(|image| image.descriptor().on(image.platform.clone()));
    let index = assemble_index(Family::Oci, descriptors.to_vec(), BTreeMap::new());
    let bundle = Bundle::multi(index.clone(), &[other, native.clone()]);
    write_archive(&bundle, Flavour::Docker, &opener(blobs), &Dest::Path(path.clone())).unwrap();
    let got = entries(&path);
    assert_eq!(json_of(&got, "index.json")["manifests"][0]["digest"], json!(index.1.digest));
    let config = json_of(&got, "manifest.json")[0]["Config"].clone();
    assert_eq!(config, json!(format!("blobs/sha256/{}", native.config_digest.hex())));
}

#[test]
fn damaged_blobs_do_not_leave() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("out.tar");
    let (image, blobs) = image(Family::Oci, 1);
    let whole = blobs.values().next().unwrap().clone();
    let mut flipped = whole.clone();
    flipped[600] ^= 1;
    for (bytes, why) in
        [(flipped, "flipped bit"), (whole[..100].to_vec(), "too short"), ([whole, vec![0]].concat(), "too long")]
    {
        let damaged = blobs.keys().map(|digest| (*digest, bytes.clone())).collect();
        let result = write_archive(&bundle(&image, &[]), Flavour::Oci, &opener(damaged), &Dest::Path(path.clone()));
        assert!(matches!(result, Err(Error::Corrupt(_))), "{why}: {result:?}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "{why}");
    }
    let missing = write_archive(&bundle(&image, &[]), Flavour::Oci, &opener(BTreeMap::new()), &Dest::Path(path));
    assert!(matches!(missing, Err(Error::Blob { .. })));
}

#[test]
fn a_directory_collects_images_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let dest = dir.path().join("layout");
    let put = |count: usize, names: &[&str]| {
        let (image, blobs) = image(Family::Oci, count);
        write_directory(&bundle(&image, names), Flavour::Oci, &opener(blobs), &dest).unwrap();
        image.manifest_digest
    };
    let listed = || {
        let bytes = fs::read(dest.join("index.json")).unwrap();
        let Document::Index(index) = Document::parse(&bytes, None).unwrap() else { panic!("no index") };
        let name = |entry: &Descriptor| entry.annotations.get(FULL_NAME).cloned().unwrap_or_default();
        index.manifests.iter().map(|entry| (name(entry), entry.digest)).collect::<Vec<_>>()
    };
    let one = put(1, &["app:1", "app:2"]);
    let two = put(2, &["app:2"]);
    let (first, second) = ("docker.io/library/app:1".to_owned(), "docker.io/library/app:2".to_owned());
    assert_eq!(listed(), [(first.clone(), one), (second.clone(), two)]);
    put(1, &[]);
    put(1, &[]);
    assert_eq!(listed(), [(first, one), (second, two), (String::new(), one)]);

    fs::write(dest.join("index.json"), "{").unwrap();
    let (image, blobs) = image(Family::Oci, 1);
    let error = write_directory(&bundle(&image, &[]), Flavour::Oci, &opener(blobs), &dest).unwrap_err().to_string();
    assert!(error.contains("index.json: the index that is there is damaged"), "{error}");
}

/// Runs a real tool on what was made, or says why not. In CI a missing tool is a failure.
fn real(tool: &str, arguments: &[&str]) -> Option<Output> {
    match Command::new(tool).args(arguments).output() {
        Ok(output) => Some(output),
        Err(error) if std::env::var_os("CI").is_none_or(|ci| ci != "true") => {
            println!("skipped: {tool}: {error}");
            None
        }
        Err(error) => panic!("{tool}: {error}"),
    }
}

fn text(output: &Output) -> String {
    let text = [output.stdout.clone(), output.stderr.clone()].concat();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&text));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn skopeo_reads_both_archives() {
    let dir = tempfile::tempdir().unwrap();
    for (family, flavour, transport) in
        [(Family::Oci, Flavour::Oci, "oci-archive"), (Family::Docker, Flavour::Docker, "docker-archive")]
    {
        let (image, blobs) = image(family, 3);
        let path = dir.path().join(format!("{transport}.tar"));
        let dest = Dest::Path(path.clone());
        write_archive(&bundle(&image, &["app:1.0"]), flavour, &opener(blobs), &dest).unwrap();
        let Some(output) = real("skopeo", &["inspect", &format!("{transport}:{}", path.display())]) else { return };
        let seen: Value = serde_json::from_str(&text(&output)).unwrap();
        assert_eq!(seen["Layers"].as_array().unwrap().len(), 3);
        assert_eq!(seen["Created"], "2023-11-14T22:13:20Z");
        if family == Family::Oci {
            assert_eq!(seen["Digest"], json!(image.manifest_digest));
        }
        let config = real("skopeo", &["inspect", "--config", "--raw", &format!("{transport}:{}", path.display())]);
        assert_eq!(text(&config.unwrap()).trim_end().as_bytes(), image.config);
    }
}

#[test]
fn umoci_unpacks_a_layout_directory() {
    let dir = tempfile::tempdir().unwrap();
    let layout = dir.path().join("layout");
    let (image, blobs) = image(Family::Oci, 3);
    write_directory(&bundle(&image, &["app:1.0"]), Flavour::Oci, &opener(blobs), &layout).unwrap();
    let rootfs = dir.path().join("rootfs");
    let source = format!("{}:1.0", layout.display());
    let rootless: &[&str] = if rustix::process::geteuid().is_root() { &[] } else { &["--rootless"] };
    let arguments = [&["raw", "unpack"], rootless, &["--image", &source, rootfs.to_str().unwrap()]].concat();
    let Some(output) = real("umoci", &arguments) else { return };
    text(&output);
    assert_eq!(fs::read_to_string(rootfs.join("file2")).unwrap(), "file 2");
}
