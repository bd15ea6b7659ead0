//! What frontends say of their results, as messages.
//!
//! <https://github.com/moby/buildkit/blob/v0.29.0/frontend/gateway/pb/caps.go> and `gateway.proto` have the form;
//! <https://github.com/moby/buildkit/blob/v0.29.0/solver/result/attestation.go> the keys of the metadata.

use serde_json::{json, Map, Value};
use tonic::Code;

use super::refs::Refs;
use crate::engine::{Place, Statements};
use crate::wire::failure::Failure;
use crate::wire::proto::gateway::{Attestation, AttestationKind, Attestations, InTotoSubject, InTotoSubjectKind, Ref};

/// Why it is said; who reads `sbom` leaves out a scan of its own.
const REASON: &str = "reason";
/// Which file of a bundle is about the result itself.
const CORE: &str = "sbom-core";
const INLINE_ONLY: &str = "inline-only";
/// More than anybody says.
const MOST: usize = 256;

/// Tells what is said; its trees get names in `refs`.
pub(super) fn tell(all: &[Statements], refs: &Refs) -> Attestations {
    let one = |one: &Statements| {
        let (kind, path, subjects) = match &one.place {
            Place::Bundle { path } => (AttestationKind::Bundle, path, &[][..]),
            Place::Predicate { path, subjects } => (AttestationKind::InToto, path, &subjects[..]),
        };
        let mut attestation = Attestation {
            r#ref: Some(refs.name(one.tree.as_ref())),
            path: path.clone(),
            in_toto_predicate_type: one.predicate_type.clone(),
            in_toto_subjects: subjects.iter().map(subject).collect(),
            ..Attestation::default()
        };
        attestation.set_kind(kind);
        if one.is_sbom() {
            attestation.metadata.insert(REASON.to_owned(), b"sbom".to_vec());
            attestation.metadata.insert(CORE.to_owned(), b"sbom".to_vec());
        }
        if one.inline_only {
            attestation.metadata.insert(INLINE_ONLY.to_owned(), b"true".to_vec());
        }
        attestation
    };
    Attestations { attestation: all.iter().map(one).collect() }
}

/// Reads what is said.
pub(super) fn read(message: Attestations, refs: &Refs) -> Result<Vec<Statements>, Failure> {
    if message.attestation.len() > MOST {
        return Err(invalid(format!("{} attestations of one result", message.attestation.len())));
    }
    let one = |one: Attestation| {
        let place = match AttestationKind::try_from(one.kind) {
            Ok(AttestationKind::Bundle) => Place::Bundle { path: one.path },
            Ok(AttestationKind::InToto) => {
                let subjects = one.in_toto_subjects.iter().filter_map(raw).collect::<Result<_, Failure>>()?;
                Place::Predicate { path: one.path, subjects }
            }
            Err(_) => return Err(invalid(format!("unknown attestation kind {}", one.kind))),
        };
        let Ref { id, .. } = one.r#ref.unwrap_or_default();
        let inline_only = one.metadata.get(INLINE_ONLY).is_some_and(|value| value == b"true");
        Ok(Statements { predicate_type: one.in_toto_predicate_type, place, tree: refs.get(&id)?, inline_only })
    };
    message.attestation.into_iter().map(one).collect()
}

/// A subject as statements name it.
fn subject(value: &Value) -> InTotoSubject {
    let digests = value.get("digest").and_then(Value::as_object).into_iter().flatten();
    let digest = digests.filter_map(|(name, hex)| Some(format!("{name}:{}", hex.as_str()?))).collect();
    let name = value.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
    InTotoSubject { kind: InTotoSubjectKind::Raw.into(), digest, name }
}

/// A subject other than the result, as statements name it.
fn raw(subject: &InTotoSubject) -> Option<Result<Value, Failure>> {
    match InTotoSubjectKind::try_from(subject.kind) {
        Ok(InTotoSubjectKind::Self_) => return None,
        Ok(InTotoSubjectKind::Raw) => {}
        Err(_) => return Some(Err(invalid(format!("unknown attestation subject kind {}", subject.kind)))),
    }
    let mut digests = Map::new();
    for digest in &subject.digest {
        let Some((name, hex)) = digest.split_once(':') else {
            return Some(Err(invalid(format!("invalid digest {digest:?} of an attestation's subject"))));
        };
        digests.insert(name.to_owned(), hex.into());
    }
    Some(Ok(json!({ "name": subject.name, "digest": digests })))
}

fn invalid(text: impl Into<String>) -> Failure {
    Failure::new(Code::InvalidArgument, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_is_read_again() {
        let refs = Refs::default();
        let subjects = vec![json!({ "name": "a", "digest": { "sha256": "00" } })];
        let said = |predicate_type: &str, place, inline_only| Statements {
            predicate_type: predicate_type.into(),
            place,
            tree: None,
            inline_only,
        };
        let all = [
            said("https://spdx.dev/Document", Place::Bundle { path: "/".into() }, false),
            said("t", Place::Predicate { path: "p".into(), subjects }, true),
        ];
        let told = tell(&all, &refs);
        assert_eq!(told.attestation[0].metadata["reason"], b"sbom");
        assert_eq!(format!("{:?}", read(told, &refs).unwrap()), format!("{all:?}"));
    }

    #[test]
    fn forged_attestations_are_refused() {
        let refs = Refs::default();
        let read = |one: Attestation| read(Attestations { attestation: vec![one] }, &refs).map(|read| read.len());
        let subject = |kind, digest: &str| InTotoSubject { kind, digest: vec![digest.into()], name: String::new() };
        let unknown = Ref { id: "none".into(), def: None };
        assert!(read(Attestation { kind: 7, ..Attestation::default() }).is_err());
        assert!(read(Attestation { r#ref: Some(unknown), ..Attestation::default() }).is_err());
        for (kind, digest) in [(7, "sha256:0"), (1, "sha256")] {
            let in_toto_subjects = vec![subject(kind, digest)];
            assert!(read(Attestation { in_toto_subjects, ..Attestation::default() }).is_err(), "{kind} {digest}");
        }
        assert_eq!(read(Attestation::default()).ok(), Some(1));
        let many = Attestations { attestation: vec![Attestation::default(); MOST + 1] };
        assert!(super::read(many, &refs).is_err());
    }
}
