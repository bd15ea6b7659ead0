//! Image names, and images without one: what people asked to keep.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::layout::{names_in, read_json, readable, write_json};
use super::lock::{Lock, Sharing};
use super::recover::age_of;
use super::{now, Store};
use crate::digest::{DiffId, Digest, SnapshotId};
use crate::error::{Doing, Error, Result};

/// A blob with what a descriptor says of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlobRef {
    /// Its name.
    pub digest: Digest,
    /// Its bytes.
    pub size: u64,
    /// Its media type.
    pub media_type: String,
}

/// One layer of an image, and where it can be found in this store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerRef {
    /// The digest of its uncompressed tar.
    pub diff_id: DiffId,
    /// The snapshot whose delta it is, if it is unpacked here.
    pub snapshot: Option<SnapshotId>,
    /// The layer as it was pulled or exported, if it is here.
    pub blob: Option<BlobRef>,
}

/// For so many seconds an entry that says the same is not dated anew.
const SAME: i64 = 3600;

/// What a name stands for: an image, and for several platforms several.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TagEntry {
    /// The name as people write it; none for an image that lost it. Set by [`Store::set_tag`].
    #[serde(default)]
    pub name: Option<String>,
    /// The digest of the image's config: the image id.
    pub image: Digest,
    /// The manifest or index it was pulled by or last exported as.
    #[serde(default)]
    pub manifest: Option<BlobRef>,
    /// `linux/amd64` and the like.
    #[serde(default)]
    pub platform: Option<String>,
    /// Bottom first.
    pub layers: Vec<LayerRef>,
    /// The same name's images for further platforms.
    #[serde(default)]
    pub variants: Vec<TagEntry>,
    /// Other blobs that belong to it: attestations, signatures.
    #[serde(default)]
    pub keeps: Vec<Digest>,
    /// Seconds since 1970.
    pub created: i64,
    /// What the caller wants back as it was.
    #[serde(default)]
    pub extra: serde_json::Value,
}

impl TagEntry {
    /// The images of all platforms: this one, then its variants.
    pub fn platforms(&self) -> impl Iterator<Item = &TagEntry> {
        std::iter::once(self).chain(&self.variants)
    }

    /// Itself, unless what is there says the same.
    fn instead_of(&self, there: Option<TagEntry>) -> Option<TagEntry> {
        let says_the_same = |there: &TagEntry| {
            (0..SAME).contains(&self.created.saturating_sub(there.created))
                && *there == TagEntry { created: there.created, ..self.clone() }
        };
        (!there.is_some_and(|there| says_the_same(&there))).then(|| self.clone())
    }

    /// The image of this id among those of all platforms, to be changed.
    pub fn platform_mut(&mut self, image: &Digest) -> Option<&mut TagEntry> {
        match self.image == *image {
            true => Some(self),
            false => self.variants.iter_mut().find(|variant| variant.image == *image),
        }
    }

    /// This entry, which another of the same name joins: in place of the one `is_replaced` finds, else beside all.
    #[must_use]
    pub fn joined_by(mut self, new: TagEntry, is_replaced: impl Fn(&TagEntry) -> bool) -> TagEntry {
        if is_replaced(&self) {
            let variants = std::mem::take(&mut self.variants);
            return TagEntry { variants, ..new };
        }
        self.variants.retain(|variant| !is_replaced(variant));
        self.variants.push(TagEntry { variants: Vec::new(), ..new });
        self
    }

    /// This entry without an image; none if there was no other.
    #[must_use]
    pub fn without(mut self, image: &Digest) -> Option<TagEntry> {
        self.variants.retain(|variant| variant.image != *image);
        if self.image != *image {
            return Some(self);
        }
        let mut variants = std::mem::take(&mut self.variants).into_iter();
        let first = variants.next()?;
        Some(TagEntry { variants: variants.collect(), ..first })
    }

    /// The entry under another name, or under none.
    fn named(&self, name: Option<&str>) -> TagEntry {
        let mut named = TagEntry { name: name.map(str::to_owned), ..self.clone() };
        for variant in &mut named.variants {
            variant.name.clone_from(&named.name);
        }
        named
    }

    /// Every blob it needs, its variants' included.
    pub(crate) fn blobs(&self) -> Vec<Digest> {
        let mut blobs = vec![self.image];
        blobs.extend(self.manifest.iter().map(|manifest| manifest.digest));
        blobs.extend(self.layers.iter().filter_map(|layer| Some(layer.blob.as_ref()?.digest)));
        blobs.extend(&self.keeps);
        blobs.extend(self.variants.iter().flat_map(TagEntry::blobs));
        blobs
    }

    /// Every snapshot it needs, its variants' included.
    pub(crate) fn snapshots(&self) -> Vec<SnapshotId> {
        let mut snapshots: Vec<_> = self.layers.iter().filter_map(|layer| layer.snapshot).collect();
        snapshots.extend(self.variants.iter().flat_map(TagEntry::snapshots));
        snapshots
    }
}

/// How long an image name may be, in bytes.
const LONGEST_NAME: usize = 1024;

/// The file that stands for a name. Everything but the tamest bytes is escaped; long names become a digest, since the
/// name itself is in the file too.
fn file_name(name: &str) -> Result<String> {
    let refuse = |reason| Err(Error::BadName { name: name.chars().take(128).collect(), reason });
    if name.is_empty() {
        return refuse("it is empty");
    }
    if name.len() > LONGEST_NAME {
        return refuse("it is longer than 1024 bytes");
    }
    if name.chars().any(char::is_control) {
        return refuse("it has control characters");
    }
    let mut escaped = String::with_capacity(name.len() + 8);
    for (at, byte) in name.bytes().enumerate() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'-' => escaped.push(byte as char),
            b'.' if at > 0 => escaped.push('.'),
            _ => escaped.push_str(&format!("%{byte:02x}")),
        }
    }
    // `%%` cannot come from escaping, so a digest is never another name's file.
    Ok(if escaped.len() <= 200 { escaped } else { format!("%%{}", Digest::of(name.as_bytes()).hex()) })
}

/// The file of an image without a name; `@` cannot come from escaping.
fn nameless_file(image: &Digest) -> String {
    format!("@{}", image.hex())
}

impl Store {
    fn tag_path(&self, file: &str) -> PathBuf {
        self.layout().directory("tags").join(file)
    }

    /// Lets a name stand for an image, instead of what it stood for. What the entry names must be held by a lease.
    ///
    /// # Errors
    /// [`Error::BadName`] for what cannot be a name.
    pub fn set_tag(&self, name: &str, entry: &TagEntry) -> Result<()> {
        let entry = entry.named(Some(name));
        self.change_tag(name, |there| entry.instead_of(there))
    }

    /// Changes what a name stands for while nobody else can. `change` is given what that is now, and gives what it is
    /// to be; with nothing, all stays as it is.
    ///
    /// # Errors
    /// [`Error::BadName`] for what cannot be a name.
    pub fn change_tag(&self, name: &str, change: impl FnOnce(Option<TagEntry>) -> Option<TagEntry>) -> Result<()> {
        self.change_entry(&file_name(name)?, |there| change(there).map(|entry| entry.named(Some(name))))
    }

    /// Keeps an image without a name, under its id.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn keep_image(&self, entry: &TagEntry) -> Result<()> {
        let entry = entry.named(None);
        self.change_entry(&nameless_file(&entry.image), |there| entry.instead_of(there))
    }

    fn change_entry(&self, file: &str, change: impl FnOnce(Option<TagEntry>) -> Option<TagEntry>) -> Result<()> {
        let path = self.tag_path(file);
        let _no_collection = self.no_collection()?;
        let _no_other = self.lock_tags()?;
        let there = readable(read_json::<TagEntry>(&path))?;
        let Some(entry) = change(there.clone()) else {
            self.was_made(age_of(&path));
            return Ok(());
        };
        write_json(&path, &entry)?;
        self.was_made(now());
        self.show_change(there.as_ref(), Some(&entry))
    }

    /// Tags, and the view of them, change under this lock, which comes after `gc.lock`.
    pub(super) fn lock_tags(&self) -> Result<Lock> {
        Lock::acquire(&self.root().join("index.lock"), Sharing::Exclusive)
    }

    /// What a name stands for.
    ///
    /// # Errors
    /// [`Error::BadName`] for what cannot be a name, [`Error::Corrupt`] for a damaged entry.
    pub fn get_tag(&self, name: &str) -> Result<Option<TagEntry>> {
        read_json(&self.tag_path(&file_name(name)?))
    }

    /// The entry of an image kept without a name.
    ///
    /// # Errors
    /// [`Error::Corrupt`] for a damaged entry.
    pub fn kept_image(&self, image: &Digest) -> Result<Option<TagEntry>> {
        read_json(&self.tag_path(&nameless_file(image)))
    }

    /// Forgets a name; says whether it stood for anything. The image stays until it is collected.
    ///
    /// # Errors
    /// [`Error::BadName`] for what cannot be a name.
    pub fn remove_tag(&self, name: &str) -> Result<bool> {
        self.remove_entry(&file_name(name)?)
    }

    /// Forgets an image kept without a name; says whether there was one.
    ///
    /// # Errors
    /// The file cannot be removed.
    pub fn remove_kept_image(&self, image: &Digest) -> Result<bool> {
        self.remove_entry(&nameless_file(image))
    }

    fn remove_entry(&self, file: &str) -> Result<bool> {
        let path = self.tag_path(file);
        let _no_collection = self.no_collection()?;
        let _no_other = self.lock_tags()?;
        let there = readable(read_json::<TagEntry>(&path))?;
        match std::fs::remove_file(&path) {
            Ok(()) => self.show_change(there.as_ref(), None).map(|()| true),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error).doing("remove", path),
        }
    }

    /// All entries, sorted by name, those without one first. Damaged ones are left to [`fsck`](Self::fsck).
    ///
    /// # Errors
    /// The directory cannot be listed.
    pub fn tags(&self) -> Result<Vec<TagEntry>> {
        let mut entries = Vec::new();
        for file in names_in(&self.layout().directory("tags"))? {
            entries.extend(readable(read_json::<TagEntry>(&self.tag_path(&file)))?);
        }
        entries.sort_by(|a, b| (&a.name, &a.image).cmp(&(&b.name, &b.image)));
        Ok(entries)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(of: &str) -> TagEntry {
        TagEntry {
            name: None,
            image: Digest::of(of.as_bytes()),
            manifest: None,
            platform: None,
            layers: Vec::new(),
            variants: Vec::new(),
            keeps: Vec::new(),
            created: 7,
            extra: serde_json::json!({"kept": "as it was"}),
        }
    }

    #[test]
    fn names_cannot_leave_the_directory_of_tags() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let long = "x".repeat(500);
        let names = ["../../version", "..", ".", "/etc/passwd", "a/b:1.0", "ab:1.0", "a%2fb:1.0", "é", "@00", &long];
        for name in names {
            store.set_tag(name, &entry(name)).unwrap();
        }
        for name in names {
            let found = store.get_tag(name).unwrap().unwrap();
            assert_eq!((found.name.as_deref(), found.image), (Some(name), entry(name).image));
        }
        let all = store.tags().unwrap();
        assert_eq!(all.len(), names.len());
        assert_eq!(std::fs::read_dir(dir.path().join("tags")).unwrap().count(), names.len());
        for name in names {
            assert!(store.remove_tag(name).unwrap(), "{name}");
            assert!(!store.remove_tag(name).unwrap(), "{name}");
        }
        assert!(store.tags().unwrap().is_empty());
    }

    #[test]
    fn what_cannot_be_a_name_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        for name in ["", "a\nb", "a\0b", &"x".repeat(1025)] {
            assert!(matches!(store.set_tag(name, &entry("x")), Err(Error::BadName { .. })), "{name:?}");
        }
    }

    #[test]
    fn image_without_a_name_is_kept_by_its_id() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        store.keep_image(&entry("a")).unwrap();
        store.set_tag("named", &entry("b")).unwrap();
        assert_eq!(store.kept_image(&entry("a").image).unwrap(), Some(entry("a")));
        assert_eq!(store.kept_image(&entry("b").image).unwrap(), None);
        let names: Vec<_> = store.tags().unwrap().into_iter().map(|entry| entry.name).collect();
        assert_eq!(names, [None, Some("named".to_owned())]);
    }
    #[test]
    fn changes_of_one_name_do_not_overwrite_each_other() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let added = |there: Option<TagEntry>| {
            let mut entry = there.unwrap_or_else(|| entry("a"));
            entry.created += 1;
            Some(entry)
        };
        std::thread::scope(|threads| {
            for _ in 0..4 {
                threads.spawn(|| (0..25).for_each(|_| store.change_tag("a", added).unwrap()));
            }
        });
        assert_eq!(store.get_tag("a").unwrap().unwrap().created, 107);
        store.set_tag("a", &TagEntry { created: 108, ..entry("a") }).unwrap();
        assert_eq!(store.get_tag("a").unwrap().unwrap().created, 107, "what says the same is not dated anew");
        store.change_tag("a", |_| None).unwrap();
        assert_eq!(store.get_tag("a").unwrap().unwrap().created, 107, "nothing leaves it as it is");
    }

    #[test]
    fn images_of_several_platforms_share_a_name() {
        let of = |platform: &str| TagEntry { platform: Some(platform.into()), ..entry(platform) };
        let is = |platform: &'static str| move |entry: &TagEntry| entry.platform.as_deref() == Some(platform);
        let platforms = |entry: &TagEntry| -> Vec<_> { entry.platforms().filter_map(|e| e.platform.clone()).collect() };
        let both = of("amd64").joined_by(of("arm64"), is("arm64"));
        assert_eq!(platforms(&both), ["amd64", "arm64"]);
        let newer = TagEntry { created: 8, ..of("amd64") };
        let replaced = both.joined_by(newer, is("amd64")).joined_by(of("arm64"), is("arm64"));
        assert_eq!((platforms(&replaced), replaced.created), (vec!["amd64".to_owned(), "arm64".to_owned()], 8));
        let left = replaced.without(&of("amd64").image).unwrap();
        assert_eq!(platforms(&left), ["arm64"]);
        assert_eq!(left.without(&of("arm64").image), None);
    }
}
