//! What other tools see of a store: an OCI image layout of the images whose blobs are all here.
//!
//! The tags are the truth; `index.json` follows them, under the lock that they change under. A process killed between
//! the two leaves a view that lacks an image until the next change, but never one that names what is not here.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::layout::{read_json, replace, write_json};
use super::tags::TagEntry;
use super::Store;
use crate::digest::Digest;
use crate::error::{Error, Result};

/// <https://github.com/opencontainers/image-spec/blob/v1.1.0/image-layout.md>
const LAYOUT: &str = r#"{"imageLayoutVersion":"1.0.0"}"#;
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const INDEXES: [&str; 2] = [INDEX, "application/vnd.docker.distribution.manifest.list.v2+json"];
/// What tools find an image by.
const REFERENCE: &str = "org.opencontainers.image.ref.name";
/// Its name in full.
const NAME: &str = "io.containerd.image.name";

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Index {
    schema_version: u32,
    media_type: String,
    manifests: Vec<Shown>,
}

/// One image in the view.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Shown {
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<String, String>,
    digest: Digest,
    media_type: String,
    size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    platform: Option<Platform>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Platform {
    architecture: String,
    os: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    variant: Option<String>,
}

impl Platform {
    /// Of `linux/arm/v7` and the like.
    fn of(text: &str) -> Option<Platform> {
        let mut parts = text.splitn(3, '/');
        let (os, architecture) = (parts.next()?.to_owned(), parts.next()?.to_owned());
        Some(Platform { architecture, os, variant: parts.next().map(str::to_owned) })
    }
}

/// An image that could be shown, and the other blobs it needs.
#[derive(PartialEq)]
struct Candidate {
    shown: Shown,
    needs: Vec<Digest>,
}

impl Candidate {
    /// Nothing where a layer is a snapshot only, or still elsewhere.
    fn of(entry: &TagEntry) -> Option<Candidate> {
        let manifest = entry.manifest.as_ref()?;
        let layers: Option<Vec<Digest>> =
            entry.layers.iter().map(|layer| layer.blob.as_ref().map(|blob| blob.digest)).collect();
        let mut needs = layers?;
        needs.push(entry.image);
        let annotations =
            entry.name.iter().flat_map(|name| [REFERENCE, NAME].map(|key| (key.to_owned(), name.clone())));
        let shown = Shown {
            annotations: annotations.collect(),
            digest: manifest.digest,
            media_type: manifest.media_type.clone(),
            size: manifest.size,
            platform: entry.platform.as_deref().and_then(Platform::of),
        };
        Some(Candidate { shown, needs })
    }

    fn all_of(entry: Option<&TagEntry>) -> Vec<Candidate> {
        let Some(entry) = entry else { return Vec::new() };
        if !entry.manifest.as_ref().is_some_and(|manifest| INDEXES.contains(&&*manifest.media_type)) {
            return entry.platforms().filter_map(Candidate::of).collect();
        }
        // An index is shown as one, if all that it names can be.
        let Some(mut index) = Candidate::of(entry) else { return Vec::new() };
        index.shown.platform = None;
        index.needs.extend(&entry.keeps);
        for variant in &entry.variants {
            let Some(variant) = Candidate::of(variant) else { return Vec::new() };
            index.needs.push(variant.shown.digest);
            index.needs.extend(variant.needs);
        }
        vec![index]
    }

    fn is_here(&self, store: &Store) -> bool {
        self.needs.iter().chain([&self.shown.digest]).all(|blob| store.has_blob(blob))
    }
}

impl Store {
    fn index_path(&self) -> PathBuf {
        self.root().join("index.json")
    }

    /// Follows a change of one entry; the caller has the lock of the tags.
    pub(super) fn show_change(&self, before: Option<&TagEntry>, after: Option<&TagEntry>) -> Result<()> {
        let (gone, come) = (Candidate::all_of(before), Candidate::all_of(after));
        // Most changes are of images without a manifest, or of nothing that shows.
        if gone == come {
            return Ok(());
        }
        let Ok(Some(index)) = read_json::<Index>(&self.index_path()) else { return self.show_all_tags() };
        let mut manifests = index.manifests.clone();
        manifests.retain(|shown| !gone.iter().any(|candidate| candidate.shown == *shown));
        manifests.extend(come.into_iter().filter(|candidate| candidate.is_here(self)).map(|candidate| candidate.shown));
        self.show(manifests, Some(&index))
    }

    /// Makes the view anew of all tags; the caller keeps collection away, or is one.
    pub(super) fn show_all(&self) -> Result<()> {
        let _no_other = self.lock_tags()?;
        self.show_all_tags()
    }

    fn show_all_tags(&self) -> Result<()> {
        let tags = self.tags()?;
        let candidates = tags.iter().flat_map(|entry| Candidate::all_of(Some(entry)));
        let manifests =
            candidates.filter(|candidate| candidate.is_here(self)).map(|candidate| candidate.shown).collect();
        let index = read_json::<Index>(&self.index_path()).unwrap_or_default();
        self.show(manifests, index.as_ref())
    }

    fn show(&self, mut manifests: Vec<Shown>, there: Option<&Index>) -> Result<()> {
        manifests.sort();
        manifests.dedup();
        if there.map_or(manifests.is_empty(), |there| there.manifests == manifests) {
            return Ok(());
        }
        let layout = self.root().join("oci-layout");
        if !layout.exists() {
            replace(&layout, LAYOUT.as_bytes())?;
        }
        write_json(&self.index_path(), &Index { schema_version: 2, media_type: INDEX.to_owned(), manifests })
    }

    /// Manifests that the view names and that are not here: there should be none.
    ///
    /// # Errors
    /// [`Error::Corrupt`] for a view that cannot be read.
    pub(super) fn lost_from_view(&self) -> Result<Vec<Digest>, Error> {
        let shown = read_json::<Index>(&self.index_path())?.map(|index| index.manifests).unwrap_or_default();
        Ok(shown.into_iter().map(|shown| shown.digest).filter(|digest| !self.has_blob(digest)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::DiffId;
    use crate::store::tags::{BlobRef, LayerRef};
    use crate::store::Lease;
    use crate::testing::scratch_store;

    /// An image of one layer, of which nothing but the name of the layer is known if it is elsewhere.
    fn image(store: &Store, lease: &Lease, text: &str, layer_is_here: bool) -> TagEntry {
        let blob = |what: &str| {
            let bytes = format!("{what} of {text}");
            let digest = store.put_blob(lease, bytes.as_bytes()).unwrap();
            BlobRef { digest, size: bytes.len() as u64, media_type: what.to_owned() }
        };
        let layer = layer_is_here.then(|| blob("layer"));
        TagEntry {
            name: None,
            image: blob("config").digest,
            manifest: Some(blob("manifest")),
            platform: Some("linux/arm/v7".into()),
            layers: vec![LayerRef { diff_id: DiffId(Digest::of(b"diff")), snapshot: None, blob: layer }],
            variants: Vec::new(),
            keeps: Vec::new(),
            created: 7,
            extra: serde_json::Value::Null,
        }
    }

    fn names(store: &Store) -> Vec<String> {
        let index = read_json::<Index>(&store.index_path()).unwrap();
        let shown = index.into_iter().flat_map(|index| index.manifests);
        shown.map(|mut shown| shown.annotations.remove(REFERENCE).unwrap_or_default()).collect()
    }

    #[test]
    fn view_follows_the_tags() {
        let (_dir, store) = scratch_store();
        let lease = store.lease().unwrap();
        let whole = image(&store, &lease, "whole", true);
        store.set_tag("elsewhere", &image(&store, &lease, "elsewhere", false)).unwrap();
        assert!(!store.index_path().exists(), "there is nothing to show");
        store.set_tag("b", &whole).unwrap();
        store.set_tag("a", &whole).unwrap();
        assert_eq!(names(&store), ["a", "b"]);
        assert!(store.root().join("oci-layout").exists());
        store.set_tag("b", &TagEntry { manifest: None, ..whole.clone() }).unwrap();
        assert_eq!(names(&store), ["a"]);
        store.set_tag("elsewhere", &image(&store, &lease, "other", true)).unwrap();
        store.remove_tag("a").unwrap();
        assert_eq!(names(&store), ["elsewhere"]);
    }

    #[test]
    fn an_unchanged_view_is_not_written() {
        let (_dir, store) = scratch_store();
        let lease = store.lease().unwrap();
        let entry = image(&store, &lease, "x", true);
        store.set_tag("x", &entry).unwrap();
        std::fs::remove_file(store.index_path()).unwrap();
        store.set_tag("x", &TagEntry { created: 8, ..entry }).unwrap();
        assert!(!store.index_path().exists(), "nothing that shows has changed");
        store.gc().unwrap();
        assert_eq!(names(&store), ["x"], "a collection makes it anew");
    }

    #[test]
    fn a_damaged_view_is_made_anew() {
        let (_dir, store) = scratch_store();
        let lease = store.lease().unwrap();
        store.set_tag("x", &image(&store, &lease, "x", true)).unwrap();
        std::fs::write(store.index_path(), "").unwrap();
        store.set_tag("y", &image(&store, &lease, "y", true)).unwrap();
        assert_eq!(names(&store), ["x", "y"]);
        drop(lease);
        store.remove_tag("x").unwrap();
        store.gc().unwrap();
        assert_eq!(names(&store), ["y"]);
        assert_eq!(store.fsck(crate::store::fsck::Depth::Content).unwrap(), []);
    }

    #[test]
    fn an_index_is_shown_as_one() {
        let (_dir, store) = scratch_store();
        let lease = store.lease().unwrap();
        let (one, other) = (image(&store, &lease, "one", true), image(&store, &lease, "other", true));
        let index = BlobRef { media_type: INDEX.to_owned(), ..image(&store, &lease, "index", true).manifest.unwrap() };
        let both = TagEntry { manifest: Some(index.clone()), variants: vec![other.clone()], ..one };
        store.set_tag("x", &both).unwrap();
        let shown = read_json::<Index>(&store.index_path()).unwrap().unwrap().manifests;
        assert_eq!((shown.len(), shown[0].digest, &shown[0].platform), (1, index.digest, &None));
        let elsewhere = image(&store, &lease, "elsewhere", false);
        store.set_tag("x", &TagEntry { variants: vec![elsewhere], ..both }).unwrap();
        assert!(names(&store).is_empty(), "one of its images is not here");
    }

    #[test]
    fn every_platform_is_shown() {
        let (_dir, store) = scratch_store();
        let lease = store.lease().unwrap();
        let arm = image(&store, &lease, "arm", true);
        let amd = TagEntry { platform: Some("linux/amd64".into()), ..image(&store, &lease, "amd", true) };
        store.set_tag("x", &arm.joined_by(amd, |_| false)).unwrap();
        assert_eq!(names(&store), ["x", "x"]);
        let text = std::fs::read_to_string(store.index_path()).unwrap();
        assert!(text.contains(r#""platform":{"architecture":"arm","os":"linux","variant":"v7"}"#), "{text}");
    }
}
