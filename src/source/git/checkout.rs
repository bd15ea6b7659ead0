//! The files of a commit, without what git needed to make them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{utimensat, AtFlags, Timespec, Timestamps, CWD};

use super::command::Way;
use super::resolve::kept_as;
use super::{Error, Git, Pinned};

impl Git<'_> {
    /// Makes the files of a commit that was fetched into `repository`; gives the directory they are in, below the home.
    ///
    /// # Errors
    /// [`Error::NoSubdir`]; [`Error::Failed`] with git's words.
    pub async fn check_out(&self, repository: &Path, pinned: &Pinned) -> Result<PathBuf, Error> {
        let tree = self.home.join("tree");
        fs::create_dir(&tree).map_err(|source| Error::Io { doing: "make a directory for a commit", source })?;
        let format = format!("--object-format={}", if pinned.commit.len() == 64 { "sha256" } else { "sha1" });
        self.run(&tree, Way::Nowhere, &["init", "--quiet", "--template=", &format, "."]).await?;
        if self.wanted.keep_git_dir {
            self.copy_repository(repository, pinned, &tree).await?;
        } else {
            borrow_objects(repository, &tree)
                .map_err(|source| Error::Io { doing: "share the objects of a repository", source })?;
        }
        self.run(&tree, Way::Nowhere, &["checkout", "--quiet", "--detach", &pinned.commit]).await?;
        // Submodules may be named relative to it, and whoever gets the repository wants to know.
        self.run(&tree, Way::Nowhere, &["remote", "add", "--", "origin", self.wanted.remote.url()]).await?;
        let has_submodules = fs::symlink_metadata(tree.join(".gitmodules")).is_ok_and(|file| file.is_file());
        if has_submodules && !self.wanted.skip_submodules {
            let update = ["submodule", "update", "--init", "--recursive", "--progress", "--depth=1"];
            match self.run(&tree, Way::Network, &update).await {
                // Servers of plain files give all of a history or nothing.
                Err(Error::Failed { said, .. }) if said.contains("shallow") => {
                    self.run(&tree, Way::Network, &update[..5]).await?;
                }
                done => drop(done?),
            }
        }
        let time = self.time_of(&tree, pinned).await?;
        if self.wanted.keep_git_dir {
            self.run(&tree, Way::Nowhere, &["reflog", "expire", "--all", "--expire=now"]).await?;
            let _ = fs::remove_file(tree.join(".git/FETCH_HEAD"));
        }
        let (keeps, wanted) = (self.wanted.keep_git_dir, self.wanted.subdir.clone());
        let settled = tokio::task::spawn_blocking(move || settle(&tree, keeps, time, &wanted)).await;
        match settled {
            Ok(settled) => settled,
            Err(failed) if failed.is_panic() => std::panic::resume_unwind(failed.into_panic()),
            // Work that had not begun when the runtime ended never will.
            Err(_) => std::future::pending().await,
        }
    }

    /// When a commit was made, in seconds since 1970, if files are to be as old.
    pub(super) async fn time_of(&self, repository: &Path, pinned: &Pinned) -> Result<Option<i64>, Error> {
        if !self.wanted.mtime_of_commit {
            return Ok(None);
        }
        let shown = self.run(repository, Way::Nowhere, &["show", "-s", "--format=%ct", &pinned.commit]).await?;
        Ok(shown.trim().parse::<i64>().ok())
    }

    /// A repository with this one commit, under the name it was asked for.
    async fn copy_repository(&self, repository: &Path, pinned: &Pinned, tree: &Path) -> Result<(), Error> {
        let from = format!("file://{}", repository.display());
        let what = match &pinned.reference {
            Some(name) => format!("{}:{name}", kept_as(pinned)),
            None => kept_as(pinned),
        };
        let fetch = ["fetch", "--quiet", "--update-head-ok", "--no-tags", "--depth=1", "--", &from, &what];
        self.run(tree, Way::Disk, &fetch).await.map(drop)
    }
}

/// Lets the repository in `tree` use what the bare one has.
fn borrow_objects(repository: &Path, tree: &Path) -> io::Result<()> {
    let info = tree.join(".git/objects/info");
    fs::create_dir_all(&info)?;
    fs::write(info.join("alternates"), format!("{}\n", repository.join("objects").display()))?;
    match fs::copy(repository.join("shallow"), tree.join(".git/shallow")) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Takes git's own files away, sets times, and finds the part that is wanted.
fn settle(tree: &Path, keeps: bool, time: Option<i64>, subdir: &[String]) -> Result<PathBuf, Error> {
    let failed = |source| Error::Io { doing: "go through the files of a commit", source };
    // A link in the way would lead out of the tree, so each part must be a directory itself.
    let mut part = tree.to_owned();
    for name in subdir {
        part.push(name);
        if !fs::symlink_metadata(&part).is_ok_and(|found| found.is_dir()) {
            return Err(Error::NoSubdir { subdir: subdir.join("/") });
        }
    }
    let mut all = vec![tree.to_owned()];
    let mut next = 0;
    while let Some(directory) = all.get(next).cloned() {
        next += 1;
        if !fs::symlink_metadata(&directory).map_err(failed)?.is_dir() {
            continue;
        }
        for entry in fs::read_dir(&directory).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if entry.file_name() != ".git" {
                all.push(entry.path());
            } else if !keeps {
                // No commit can have this name; it is the repository, or a submodule's pointer to one.
                let is_directory = entry.file_type().map_err(failed)?.is_dir();
                let path = entry.path();
                if is_directory { fs::remove_dir_all(path) } else { fs::remove_file(path) }.map_err(failed)?;
            }
        }
    }
    if let Some(time) = time {
        let time = Timespec { tv_sec: time, tv_nsec: 0 };
        let times = Timestamps { last_access: time, last_modification: time };
        for path in &all {
            utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).map_err(|errno| failed(errno.into()))?;
        }
    }
    Ok(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subdir_is_a_directory_of_the_tree_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("tree");
        fs::create_dir_all(tree.join("a/b/.git")).unwrap();
        fs::create_dir(dir.path().join("outside")).unwrap();
        fs::write(tree.join("a/file"), "").unwrap();
        std::os::unix::fs::symlink("../outside", tree.join("out")).unwrap();
        std::os::unix::fs::symlink("a", tree.join("inside")).unwrap();
        let settle = |parts: &[&str]| {
            let parts: Vec<String> = parts.iter().map(|part| (*part).to_owned()).collect();
            settle(&tree, false, Some(1_000_000_000), &parts)
        };
        for wrong in [&["out"][..], &["inside", "b"], &["a", "file"], &["a", "c"]] {
            assert!(matches!(settle(wrong), Err(Error::NoSubdir { .. })), "{wrong:?}");
        }
        assert_eq!(settle(&["a", "b"]).unwrap(), tree.join("a/b"));
        assert!(!tree.join("a/b/.git").exists());
        let modified = fs::symlink_metadata(tree.join("out")).unwrap().modified().unwrap();
        assert_eq!(modified, std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000));
    }
}
