//! The same trees and layers as root's.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use super::support::{text, Rbuild};
use super::user::users_rbuild;

/// Files of many owners, with capabilities, further names and a pipe.
pub fn archive() -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    let header = |kind: tar::EntryType, mode: u32, owner: (u64, u64), size: u64| {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(owner.0);
        header.set_gid(owner.1);
        header.set_size(size);
        header.set_mtime(1_600_000_000);
        header
    };
    use tar::EntryType::{Directory, Fifo, Link, Regular, Symlink};
    archive.append_data(&mut header(Directory, 0o1770, (11, 12), 0), "extra/", &b""[..]).unwrap();
    // cap_net_raw=ep, as setcap(8) writes it.
    let capability = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let attributes = [("SCHILY.xattr.security.capability", &capability[..]), ("SCHILY.xattr.user.note", b"kept")];
    archive.append_pax_extensions(attributes).unwrap();
    archive.append_data(&mut header(Regular, 0o755, (0, 0), 4), "extra/ping", &b"ping"[..]).unwrap();
    archive.append_data(&mut header(Regular, 0o6755, (13, 14), 2), "extra/su", &b"su"[..]).unwrap();
    archive.append_link(&mut header(Link, 0o6755, (13, 14), 0), "extra/second", "extra/su").unwrap();
    archive.append_link(&mut header(Symlink, 0o777, (15, 16), 0), "extra/link", "su").unwrap();
    archive.append_data(&mut header(Fifo, 0o622, (17, 65534), 0), "extra/pipe", &b""[..]).unwrap();
    archive.into_inner().unwrap()
}

const DOCKERFILE: &str = r#"FROM busybox AS a
ADD extra.tar /
RUN echo x > /f && chown 1000:2000 /f && chmod 4755 /f && ln /f /g && mkdir -p /dir/sub && touch /dir/sub/file && chown -R 7:8 /dir && chmod 2775 /dir
USER builder
RUN mkdir /tmp/mine && id > /tmp/mine/id && cat /f > /tmp/mine/read
FROM busybox
COPY --from=a / /
RUN rm /bin/vi && rm -r /dir/sub && rm -r /var && mkdir /var && touch /var/new && mkfifo /fifo
COPY --chown=33:44 --chmod=0640 Dockerfile /owned
COPY --chown=builder Dockerfile /by-name/
USER 65534:65534
RUN echo nobody > /tmp/nobody
USER root
RUN chown 60000:60001 /owned; ln -s x /link; chown -h 12 /link; rm /extra/su
"#;

pub fn context(rbuild: &Rbuild) -> PathBuf {
    let context = rbuild.context("c", &[("Dockerfile", DOCKERFILE)]);
    fs::write(context.join("extra.tar"), archive()).unwrap();
    context
}

/// Everything but times that a tar says of its entries, and their contents.
pub fn listing(file: &Path) -> BTreeMap<String, String> {
    let mut archive = tar::Archive::new(File::open(file).unwrap());
    let mut entries = BTreeMap::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = String::from_utf8(entry.path_bytes().into_owned()).unwrap();
        let pax = entry.pax_extensions().unwrap().map(|extensions| {
            let kept = extensions.map(Result::unwrap).filter(|e| e.key_bytes().starts_with(b"SCHILY.xattr."));
            kept.map(|e| format!("{}={:?}", e.key().unwrap(), e.value_bytes())).collect::<Vec<_>>()
        });
        let header = entry.header();
        let mut said = format!(
            "{:?} {:o} {}:{} {:?} {:?}",
            header.entry_type(),
            header.mode().unwrap(),
            header.uid().unwrap(),
            header.gid().unwrap(),
            entry.link_name_bytes().map(|link| text(&link)),
            pax.unwrap_or_default(),
        );
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        said.push_str(&format!(" {} {}", content.len(), blake3::hash(&content)));
        assert!(entries.insert(path.clone(), said).is_none(), "{path} is there twice");
    }
    entries
}

#[test]
fn trees_and_layers_equal_those_of_root() {
    let Some(user) = users_rbuild() else { return };
    let root = Rbuild::new();
    let mut trees = Vec::new();
    let mut layers = Vec::new();
    for rbuild in [&user, &root] {
        let context = context(rbuild);
        let (tree, image) = (rbuild.path("tree.tar"), rbuild.path("image"));
        let output = |kind: &str, dest: &Path| format!("type={kind},dest={}", dest.display());
        let mut command = rbuild.command(["build", "-o", &output("tar", &tree), "-o"]);
        command.arg(output("oci,tar=false,rewrite-timestamp=true", &image)).arg(&context).env("SOURCE_DATE_EPOCH", "1");
        let built = command.output().unwrap();
        assert!(built.status.success(), "{}", text(&built.stderr));
        trees.push(listing(&tree));
        layers.push(layer_digests(&image));
    }
    let [of_user, of_root] = &trees[..] else { unreachable!("two builds") };
    for (path, said) in of_root {
        assert_eq!(of_user.get(path), Some(said), "{path}");
    }
    assert_eq!(of_user.len(), of_root.len());
    assert_eq!(layers[0], layers[1], "the layers are the same bytes");
    // That the listing shows what it is to compare.
    let has = |path: &str, what: &str| assert!(of_root[path].contains(what), "{path}: {}", of_root[path]);
    has("f", "4755 1000:2000");
    has("g", "Link");
    has("dir/", "2775 7:8");
    has("owned", "640 60000:60001");
    has("link", "Symlink 777 12:");
    has("extra/ping", "security.capability=[1, 0, 0, 2, 0, 32,");
    has("extra/ping", "user.note");
    has("extra/second", "6755 13:14");
    has("extra/pipe", "Fifo 622 17:65534");
    has("by-name/Dockerfile", "1000:1000");
    has("tmp/nobody", "65534:65534");
    for gone in ["bin/vi", "dir/sub/", "extra/su"] {
        assert!(!of_root.contains_key(gone), "{gone}");
    }
}

/// The digests of an image's layers in a layout directory.
fn layer_digests(layout: &Path) -> Vec<String> {
    let read = |path: PathBuf| serde_json::from_slice::<serde_json::Value>(&fs::read(path).unwrap()).unwrap();
    let blob = |descriptor: &serde_json::Value| {
        let digest = descriptor["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap();
        read(layout.join("blobs/sha256").join(digest))
    };
    let manifest = blob(&read(layout.join("index.json"))["manifests"][0]);
    let layers = manifest["layers"].as_array().unwrap();
    layers.iter().map(|layer| layer["digest"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn second_build_runs_nothing() {
    let Some(rbuild) = users_rbuild() else { return };
    let context = context(&rbuild);
    let first = rbuild.log(&context, &[]);
    assert_eq!(first.matches("CACHED").count(), 1, "the base image: {first}");
    let second = rbuild.log(&context, &[]);
    assert!(second.matches("CACHED").count() > 8, "{second}");
    assert!(!second.contains("WARN: steps share"), "a step ran: {second}");
    rbuild.ok(["fsck"]);
}
