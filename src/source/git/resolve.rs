//! Which commit a ref is, and fetching it.

use std::path::Path;

use super::command::Way;
use super::{is_commit, Error, Git};

/// A ref at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pinned {
    /// The commit.
    pub commit: String,
    /// What the ref is: the commit, or a tag with a text of its own.
    pub object: String,
    /// The ref's full name, where it has one.
    pub reference: Option<String>,
}

impl Git<'_> {
    /// Asks the repository which commit the source's ref is. A commit's id is its own answer, and nobody is asked.
    ///
    /// # Errors
    /// [`Error::NoReference`]; [`Error::Mismatch`] where it is not the commit of the checksum.
    pub async fn resolve(&self) -> Result<Pinned, Error> {
        let wanted = self.wanted;
        let (url, way) = self.place();
        let is_known = wanted.checksum.as_ref().filter(|sum| wanted.fetch_by_commit && is_commit(sum));
        let pinned = match (is_known, &wanted.reference) {
            (Some(commit), reference) => Pinned {
                commit: commit.clone(),
                object: commit.clone(),
                reference: reference.clone().filter(|name| name.starts_with("refs/")),
            },
            (None, Some(commit)) if is_commit(commit) => {
                Pinned { commit: commit.clone(), object: commit.clone(), reference: None }
            }
            (None, Some(reference)) => {
                let peeled = format!("{reference}^{{}}");
                let args = ["ls-remote", "--", &url, reference.as_str(), peeled.as_str()];
                let output = self.run(&self.home, way, &args).await?;
                chosen(&output, reference)
                    .ok_or_else(|| Error::NoReference { reference: reference.clone(), output: excerpt(&output) })?
            }
            (None, None) => {
                if let (Some(staged), Some(sum)) = (&self.staged, &wanted.checksum) {
                    // A bundle has no head; the commit was found in it.
                    let named = format!("{sum}^{{commit}}");
                    let found = self.run(staged, Way::Nowhere, &["rev-parse", "--verify", &named]).await?;
                    let commit = found.trim().to_owned();
                    return Ok(Pinned { object: commit.clone(), commit, reference: None });
                }
                let args = ["ls-remote", "--symref", "--", &url, "HEAD"];
                let output = self.run(&self.home, way, &args).await?;
                head(&output)
                    .ok_or_else(|| Error::NoReference { reference: "HEAD".to_owned(), output: excerpt(&output) })?
            }
        };
        match wanted.checksum.as_ref().filter(|sum| !pinned.is(sum)) {
            None => Ok(pinned),
            Some(want) => Err(Error::Mismatch { want: want.clone(), got: pinned.commit }),
        }
    }

    /// Fetches a commit into a bare repository, as little as the server allows, unless it is there. Only one may do so
    /// at a time.
    ///
    /// # Errors
    /// [`Error::Failed`] with git's words.
    pub async fn fetch(&self, repository: &Path, pinned: &Pinned) -> Result<(), Error> {
        let format = if pinned.commit.len() == 64 { "sha256" } else { "sha1" };
        if !repository.join("HEAD").exists() {
            let format = format!("--object-format={format}");
            self.run(repository, Way::Nowhere, &["init", "--quiet", "--bare", "--template=", &format, "."]).await?;
        }
        // Of one that was killed; whoever is here is alone.
        for name in ["shallow.lock", "index.lock", "packed-refs.lock", "HEAD.lock", "config.lock"] {
            let _ = std::fs::remove_file(repository.join(name));
        }
        // Of a bundle the history is a part.
        let lacks_history = self.wanted.as_bundle && Git::is_shallow(repository);
        if lacks_history {
            self.fetch_all(repository).await?;
        }
        if !self.has(repository, pinned).await {
            let (url, way) = self.place();
            let mut shallow = vec!["fetch", "--progress", "--no-tags", "--no-write-fetch-head"];
            shallow.extend((!self.wanted.as_bundle).then_some("--depth=1"));
            shallow.extend(["--", &url]);
            let by_id = self.run(repository, way, &with(&shallow, &[&pinned.object])).await;
            let mut failed = by_id.err();
            // Older servers give what has a name only.
            if let (Some(_), Some(reference)) = (&failed, &pinned.reference) {
                failed = self.run(repository, way, &with(&shallow, &[reference])).await.err();
            }
            if let Some(Error::Stalled { .. }) = failed {
                return failed.map_or(Ok(()), Err);
            }
            if !self.has(repository, pinned).await {
                self.fetch_all(repository).await.map_err(|error| failed.unwrap_or(error))?;
            }
        }
        if !self.has(repository, pinned).await {
            return Err(Error::NoReference { reference: pinned.commit.clone(), output: String::new() });
        }
        let name = kept_as(pinned);
        self.run(repository, Way::Nowhere, &["update-ref", &name, &pinned.object]).await.map(drop)
    }

    /// Fetches every branch and tag with its history: a commit that is none of their tips must be in it.
    async fn fetch_all(&self, repository: &Path) -> Result<(), Error> {
        let (url, way) = self.place();
        let mut args = vec!["fetch", "--progress", "--no-write-fetch-head", "--force"];
        args.extend(Git::is_shallow(repository).then_some("--unshallow"));
        let refs = ["+refs/heads/*:refs/remote/heads/*", "+refs/tags/*:refs/remote/tags/*"];
        args.extend(["--no-tags", "--", &url]);
        args.extend(refs);
        self.run(repository, way, &args).await.map(drop)
    }

    /// Whether a repository has a commit.
    pub async fn has(&self, repository: &Path, pinned: &Pinned) -> bool {
        let commit = format!("{}^{{commit}}", pinned.commit);
        let commit = self.run(repository, Way::Nowhere, &["cat-file", "-e", &commit]).await;
        commit.is_ok() && self.run(repository, Way::Nowhere, &["cat-file", "-e", &pinned.object]).await.is_ok()
    }
}

impl Pinned {
    /// Whether a checksum names it.
    fn is(&self, checksum: &str) -> bool {
        self.commit.starts_with(checksum) || self.object.starts_with(checksum)
    }
}

/// The name under which a bare repository keeps a commit.
pub(super) fn kept_as(pinned: &Pinned) -> String {
    format!("refs/rbuild/{}", pinned.object)
}

fn with<'a>(args: &[&'a str], more: &[&'a str]) -> Vec<&'a str> {
    args.iter().chain(more).copied().collect()
}

/// Ids by the names of refs.
fn lines(output: &str) -> impl Iterator<Item = (&str, &str)> {
    output.lines().filter_map(|line| line.split_once('\t')).filter(|(id, _)| is_commit(id))
}

/// Of the refs that end like `reference`, the one that is meant: a full name, a branch, a tag, in this order.
fn chosen(output: &str, reference: &str) -> Option<Pinned> {
    let strip = |prefix: &str| reference.strip_prefix(prefix).unwrap_or(reference);
    let full = format!("refs/{}", strip("refs/"));
    let branch = format!("refs/heads/{}", strip("refs/heads/"));
    let tag = format!("refs/tags/{}", strip("refs/tags/"));
    [full, branch, tag].into_iter().find_map(|name| {
        let object = lines(output).find(|(_, found)| *found == name)?.0.to_owned();
        let peeled = format!("{name}^{{}}");
        let commit =
            lines(output).find(|(_, found)| *found == peeled).map_or_else(|| object.clone(), |(id, _)| id.into());
        Some(Pinned { commit, object, reference: Some(name) })
    })
}

/// What the repository calls its head.
fn head(output: &str) -> Option<Pinned> {
    let commit = lines(output).find(|(_, name)| *name == "HEAD")?.0.to_owned();
    let name = output.lines().find_map(|line| line.strip_prefix("ref: ")?.strip_suffix("\tHEAD"));
    let reference = name.filter(|name| super::is_reference(name)).map(str::to_owned);
    Some(Pinned { object: commit.clone(), commit, reference })
}

fn excerpt(output: &str) -> String {
    output.chars().take(500).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "1111111111111111111111111111111111111111";
    const TWO: &str = "2222222222222222222222222222222222222222";
    const TAG: &str = "3333333333333333333333333333333333333333";

    #[test]
    fn a_name_is_a_branch_before_it_is_a_tag() {
        let output = format!(
            "{ONE}\trefs/heads/v1\n{TAG}\trefs/tags/v1\n{TWO}\trefs/tags/v1^{{}}\n{TWO}\trefs/heads/x/v1\nnoise\n"
        );
        let pinned = |commit: &str, object: &str, name: &str| {
            Some(Pinned { commit: commit.into(), object: object.into(), reference: Some(name.into()) })
        };
        assert_eq!(chosen(&output, "v1"), pinned(ONE, ONE, "refs/heads/v1"));
        assert_eq!(chosen(&output, "heads/v1"), pinned(ONE, ONE, "refs/heads/v1"));
        assert_eq!(chosen(&output, "refs/tags/v1"), pinned(TWO, TAG, "refs/tags/v1"));
        assert_eq!(chosen(&output, "x/v1"), pinned(TWO, TWO, "refs/heads/x/v1"));
        assert_eq!(chosen(&output, "v2"), None);
        assert_eq!(chosen("-x\trefs/heads/v1\n", "v1"), None);
    }

    #[test]
    fn the_head_has_a_name() {
        let output = format!("ref: refs/heads/main\tHEAD\n{ONE}\tHEAD\n");
        assert_eq!(head(&output).unwrap().reference.as_deref(), Some("refs/heads/main"));
        assert_eq!(head(&format!("{ONE}\tHEAD\n")).unwrap().reference, None);
        assert_eq!(head(""), None);
    }
}
