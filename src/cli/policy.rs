//! The source policy that the environment names.

use std::fs::File;
use std::io::Read;

use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage};

use super::failure::Failure;
use crate::engine::policy::{Policies, Policy};
use crate::gateway;
use crate::wire::proto::{sourcepolicy, DESCRIPTORS};

/// What names the file, the one that counts first.
const VARIABLES: [&str; 2] = ["BUILDKIT_SOURCE_POLICY", "EXPERIMENTAL_BUILDKIT_SOURCE_POLICY"];
/// What the message is called whose JSON it is.
const MESSAGE: &str = "moby.buildkit.v1.sourcepolicy.Policy";
/// More than anybody's policy has: 4 MiB.
const LIMIT: u64 = 4 << 20;

/// The policy that every source of a build is under; none if none is named.
///
/// # Errors
/// The file cannot be read, or is no policy.
pub(super) fn of_environment() -> Result<Policies, Failure> {
    for variable in VARIABLES {
        let Some(path) = std::env::var_os(variable).filter(|path| !path.is_empty()) else { continue };
        let wrong = |why: String| Failure::misuse(format!("{variable}={}: {why}", path.to_string_lossy()));
        let mut bytes = Vec::new();
        let read_whole = File::open(&path).and_then(|file| file.take(LIMIT + 1).read_to_end(&mut bytes));
        read_whole.map_err(|error| wrong(super::request::reason(&error)))?;
        if bytes.len() as u64 > LIMIT {
            // A part of it might be a policy too, with fewer rules.
            return Err(wrong(format!("more than {LIMIT} bytes")));
        }
        return Ok(Policies::of(read(&bytes).map_err(wrong)?));
    }
    Ok(Policies::default())
}

/// Reads a policy as JSON, or as the message itself.
fn read(bytes: &[u8]) -> Result<Policy, String> {
    let message = match (of_json(bytes), bytes.first()) {
        (Ok(policy), _) => policy,
        // What looks like JSON is meant as JSON.
        (Err(why), None | Some(b'{' | b' ' | b'\t' | b'\n' | b'\r')) => return Err(why),
        (Err(why), _) => sourcepolicy::Policy::decode(bytes).map_err(|_| why)?,
    };
    gateway::policy::read(&message).map_err(|failure| failure.message)
}

fn of_json(bytes: &[u8]) -> Result<sourcepolicy::Policy, String> {
    let wrong = |error: &dyn std::fmt::Display| format!("failed to parse source policy: {error}");
    let pool = DescriptorPool::decode(DESCRIPTORS).map_err(|error| wrong(&error))?;
    let descriptor = pool.get_message_by_name(MESSAGE).ok_or_else(|| wrong(&"there is no such message"))?;
    let mut json = serde_json::Deserializer::from_slice(bytes);
    // A field that nobody knows is a rule that nobody obeys.
    let dynamic = DynamicMessage::deserialize(descriptor, &mut json).map_err(|error| wrong(&error))?;
    json.end().map_err(|error| wrong(&error))?;
    sourcepolicy::Policy::decode(dynamic.encode_to_vec().as_slice()).map_err(|error| wrong(&error))
}

#[cfg(test)]
mod tests {
    use solver::graph::op::SourceOp;

    use super::*;

    #[test]
    fn policies_are_read_as_docker_buildx_reads_them() {
        let text = br#"{"rules": [
            {"action": "DENY", "selector": {"identifier": "docker-image://*"}},
            {"action": "ALLOW", "selector": {"identifier": "^docker-image://r\\.example/", "match_type": "REGEX"}},
            {"action": 2, "selector": {"identifier": "https://h/x", "matchType": "EXACT",
                "constraints": [{"key": "http.checksum", "condition": "NOTEQUAL", "value": "sha256:1"}]},
             "updates": {"attrs": {"http.checksum": "sha256:1"}}}
        ]}"#;
        let message = of_json(text).unwrap();
        for policy in [read(text).unwrap(), read(&message.encode_to_vec()).unwrap()] {
            let policies = Policies::of(policy);
            let found = |identifier: &str| {
                policies.evaluate(&SourceOp { identifier: identifier.into(), attrs: Default::default() })
            };
            assert!(found("docker-image://docker.io/library/a:1").is_err());
            assert_eq!(found("docker-image://r.example/a:1"), Ok(None));
            assert_eq!(found("https://h/x").unwrap().unwrap().attrs["http.checksum"], "sha256:1");
        }
    }

    #[test]
    fn what_is_no_policy_is_refused() {
        for (text, want) in [
            (&br#"{"rules": [{"action": "REFUSE"}]}"#[..], "REFUSE"),
            (br#"{"rules": [{"deny": true}]}"#, "deny"),
            (br#"{"rules": [{"action": "DENY"}]}"#, "selector"),
            (br#"{"rules": []} x"#, "trailing"),
            (b"", "EOF"),
            (b"\xff\xff", "failed to parse source policy"),
        ] {
            let said = read(text).unwrap_err();
            assert!(said.contains(want), "{said}");
        }
    }
}
