//! Secrets of a step: as files in memory and as variables, and nowhere else.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use solver::graph::op::{MountKind, RunOp, SecretMount};

use crate::engine::secret::Secret;
use crate::engine::steps::{StepCx, StepFailure};
use crate::sandbox;

/// The values that a step asked for, as far as the client has them.
pub(super) struct Secrets {
    /// By the number of the mount.
    files: BTreeMap<usize, Secret>,
    /// Names and values; none for a secret that the client does not have, whose variable is empty.
    variables: Vec<(String, Option<Secret>)>,
}

impl Secrets {
    /// Asks the client for all that `op` needs.
    pub(super) async fn fetch(cx: &StepCx, op: &RunOp) -> Result<Secrets, StepFailure> {
        let mut secrets = Secrets { files: BTreeMap::new(), variables: Vec::new() };
        for (number, mount) in op.mounts.iter().enumerate() {
            let MountKind::Secret(SecretMount { id, optional, .. }) = &mount.kind else { continue };
            if let Some(value) = ask(cx, id, *optional).await? {
                secrets.files.insert(number, value);
            }
        }
        for variable in &op.secret_env {
            if variable.id.is_empty() {
                return Err(StepFailure::NoSecretId { name: variable.name.clone() });
            }
            if variable.name.is_empty() || variable.name.contains(['=', '\0']) {
                return Err(StepFailure::BadVariable { name: variable.name.clone() });
            }
            let value = ask(cx, &variable.id, variable.optional).await?;
            if value.as_ref().is_some_and(|value| value.bytes().contains(&0)) {
                return Err(StepFailure::SecretHasNul { id: variable.id.clone() });
            }
            secrets.variables.push((variable.name.clone(), value));
        }
        Ok(secrets)
    }

    /// The file of a mount; none when the secret is absent.
    pub(super) fn file(&self, mount: usize, options: &SecretMount) -> Option<sandbox::MountKind> {
        let SecretMount { uid, gid, mode, .. } = *options;
        let content = self.files.get(&mount)?.bytes().to_vec();
        Some(sandbox::MountKind::File { content, mode: mode & 0o777, uid, gid })
    }

    /// Puts the variables into an environment; they replace others of their name.
    pub(super) fn add_to(&self, env: &mut Vec<OsString>) {
        for (name, value) in &self.variables {
            let value = value.as_ref().map(Secret::bytes).unwrap_or_default();
            let pair = [name.as_bytes(), b"=", value].concat();
            let start = name.len() + 1;
            env.retain(|other| other.as_encoded_bytes().get(..start) != pair.get(..start));
            env.push(OsString::from_vec(pair));
        }
    }
}

/// One secret; none when the client has none of this id and that is no error.
async fn ask(cx: &StepCx, id: &str, optional: bool) -> Result<Option<Secret>, StepFailure> {
    match cx.client.secret(id).await? {
        None if !optional => Err(StepFailure::NoSecret { id: id.to_owned() }),
        answer => Ok(answer),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_replaces_the_one_of_its_name_only() {
        let value = |text: &str| Some(Secret::new(text.into()).unwrap());
        let absent = ("ABSENT".to_owned(), None);
        let variables = vec![("TOKEN".to_owned(), value("t")), ("NEW".to_owned(), value("a=b")), absent];
        let secrets = Secrets { files: BTreeMap::new(), variables };
        let mut env = ["TOKEN=old", "TOKEN_2=kept", "TOKE=kept", "PATH=/bin"].map(OsString::from).to_vec();
        secrets.add_to(&mut env);
        assert_eq!(env, ["TOKEN_2=kept", "TOKE=kept", "PATH=/bin", "TOKEN=t", "NEW=a=b", "ABSENT="]);
    }
}
