//! Statements about an image: who built it from what. They travel as a manifest of their own beside the image's.
//!
//! <https://github.com/moby/buildkit/blob/v0.29.0/docs/attestations/attestation-storage.md>,
//! <https://github.com/in-toto/attestation/blob/v1.1.0/spec/v1/statement.md>.

use std::collections::BTreeMap;

use serde_json::{json, Value};
use solver::graph::Platform;

use super::manifest::Manifest;
use super::{Descriptor, Digest, Family, ImageName};

/// The media type of a statement.
const STATEMENT: &str = "application/vnd.in-toto+json";
/// The kind of artifact that a manifest of statements is.
const ARTIFACT: &str = "application/vnd.docker.attestation.manifest.v1+json";
/// The config of an artifact that has none.
const EMPTY: &str = "application/vnd.oci.empty.v1+json";

/// Something said about an image.
#[derive(Clone, Debug, PartialEq)]
pub struct Attestation {
    /// What kind of statement, as an address (`https://slsa.dev/provenance/v1`).
    pub predicate_type: String,
    /// What is said.
    pub predicate: Value,
    /// What it is about, as statements name it, where that is not the image or the files it lies beside.
    pub subjects: Vec<Value>,
}

impl Attestation {
    /// The whole statement about its own subjects, or else about what has these names and digests.
    pub fn statement(&self, subjects: &[Value]) -> Value {
        let subjects = if self.subjects.is_empty() { subjects } else { &self.subjects };
        json!({
            "_type": "https://in-toto.io/Statement/v1",
            "predicateType": self.predicate_type,
            "subject": subjects,
            "predicate": self.predicate,
        })
    }
}

/// A manifest of statements with all that it names.
#[derive(Clone, Debug)]
pub struct Attested {
    /// The manifest.
    pub manifest: Vec<u8>,
    /// Its place in the index.
    pub descriptor: Descriptor,
    /// Its config and statements.
    pub blobs: Vec<(Descriptor, Vec<u8>)>,
}

/// Makes the manifest of what is said about the image that `image` describes, which is for `platform` and goes by these
/// names. With `artifact` it names the image as its subject; else it looks like an image that nothing can run.
pub fn attest(
    image: &Descriptor,
    platform: &Platform,
    names: &[ImageName],
    attestations: &[Attestation],
    artifact: bool,
) -> Attested {
    let digest = json!({ "sha256": image.digest.hex() });
    let mut subjects: Vec<Value> =
        names.iter().map(|name| json!({ "name": purl(name, platform), "digest": digest })).collect();
    if subjects.is_empty() {
        subjects.push(json!({ "name": "_", "digest": digest }));
    }
    let mut blobs = Vec::new();
    for attestation in attestations {
        let statement = attestation.statement(&subjects).to_string().into_bytes();
        let mut descriptor = Descriptor::of(STATEMENT, &statement);
        descriptor.annotations.insert("in-toto.io/predicate-type".into(), attestation.predicate_type.clone());
        blobs.push((descriptor, statement));
    }
    let layers: Vec<Descriptor> = blobs.iter().map(|(descriptor, _)| descriptor.clone()).collect();
    let (config_bytes, config) = match artifact {
        true => {
            let bytes = b"{}".to_vec();
            let mut config = Descriptor::of(EMPTY, &bytes);
            config.data = Some("e30=".into());
            (bytes, config)
        }
        false => {
            let diff_ids: Vec<Digest> = layers.iter().map(|layer| layer.digest).collect();
            let config = json!({
                "architecture": "unknown",
                "os": "unknown",
                "config": {},
                "rootfs": { "type": "layers", "diff_ids": diff_ids },
            });
            let bytes = config.to_string().into_bytes();
            let config = Descriptor::of(Family::Oci.config(), &bytes);
            (bytes, config)
        }
    };
    let document = Manifest {
        schema_version: 2,
        media_type: Family::Oci.manifest().to_owned(),
        artifact_type: artifact.then(|| ARTIFACT.to_owned()),
        config: config.clone(),
        layers,
        subject: artifact.then(|| Descriptor::new(image.media_type.clone(), image.digest, image.size)),
        annotations: BTreeMap::new(),
    };
    // A plain struct with text keys always serializes.
    let manifest = serde_json::to_vec_pretty(&document).unwrap_or_default();
    let mut descriptor = Descriptor::of(Family::Oci.manifest(), &manifest);
    let unknown = || "unknown".to_string();
    descriptor.platform = Some(Platform { architecture: unknown(), os: unknown(), ..Platform::default() });
    descriptor.annotations.insert("vnd.docker.reference.digest".into(), image.digest.to_string());
    descriptor.annotations.insert("vnd.docker.reference.type".into(), "attestation-manifest".into());
    blobs.push((config, config_bytes));
    Attested { manifest, descriptor, blobs }
}

/// The package URL of an image for a platform.
///
/// <https://github.com/package-url/purl-spec/blob/main/types-doc/docker-definition.md>
pub fn purl(name: &ImageName, platform: &Platform) -> String {
    let platform = platform.to_string().replace('/', "%2F");
    format!("pkg:docker/{}@{}?platform={platform}", name.familiar_repository(), name.tag())
}

#[cfg(test)]
mod tests {
    use super::super::Document;
    use super::*;

    fn attested(artifact: bool) -> Attested {
        let image = Descriptor::of(Family::Oci.manifest(), b"image");
        let platform = Platform { os: "linux".into(), architecture: "amd64".into(), ..Platform::default() };
        let names = ["app:1".parse().unwrap()];
        let said =
            Attestation { predicate_type: "https://x.y/z".into(), predicate: json!({"a": 1}), subjects: Vec::new() };
        attest(&image, &platform, &names, &[said], artifact)
    }

    #[test]
    fn statements_name_the_image_they_are_about() {
        let made = attested(false);
        let statement: Value = serde_json::from_slice(&made.blobs[0].1).unwrap();
        assert_eq!(statement["subject"][0]["name"], "pkg:docker/app@1?platform=linux%2Famd64");
        assert_eq!(statement["subject"][0]["digest"]["sha256"], Digest::of(b"image").hex());
        assert_eq!(made.descriptor.annotations["vnd.docker.reference.digest"], Digest::of(b"image").to_string());
        assert_eq!(made.descriptor.platform.as_ref().unwrap().os, "unknown");
    }

    #[test]
    fn both_forms_are_manifests_whose_blobs_are_all_given() {
        for artifact in [false, true] {
            let made = attested(artifact);
            let Document::Manifest(manifest) = Document::parse(&made.manifest, None).unwrap() else { panic!() };
            for named in manifest.layers.iter().chain([&manifest.config]) {
                let (_, bytes) = made.blobs.iter().find(|(given, _)| given.digest == named.digest).unwrap();
                assert_eq!((Digest::of(bytes), bytes.len() as u64), (named.digest, named.size));
            }
            assert_eq!(manifest.subject.is_some(), artifact);
        }
    }
}
