//! What was found damaged: told, and moved where nobody finds it but a person, for a while.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::PoisonError;
use std::time::Duration;

use super::gc::{last_used, tell, Collected, Gone, Keep};
use super::layout::{date_now, names_in};
use super::things::ThingKind;
use super::usage::directory_usage;
use super::Store;
use crate::digest::Digest;
use crate::error::{Doing, Result};

/// How long a person has to look at it.
const KEPT_FOR: Duration = Duration::from_secs(7 * 24 * 3600);

impl Store {
    /// What this handle found damaged and set aside since it was last asked, one line each: the file, and what is wrong.
    pub fn take_damage(&self) -> Vec<String> {
        std::mem::take(&mut *self.inner.damage.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Where lies what was set aside.
    pub fn quarantine(&self) -> PathBuf {
        self.layout().directory("quarantine")
    }

    /// Sets something aside that is not what it should be: from now on it counts as missing.
    pub(crate) fn damaged(&self, path: &Path, reason: &str) {
        // Where that cannot be done it is found again.
        let _ = self.set_aside(path);
        self.note_damage(path, reason);
    }

    fn note_damage(&self, path: &Path, reason: &str) {
        let shown = path.strip_prefix(self.root()).unwrap_or(path).display();
        let line = format!("{shown}: {reason}");
        let mut damage = self.inner.damage.lock().unwrap_or_else(PoisonError::into_inner);
        if !damage.contains(&line) {
            damage.push(line);
        }
    }

    /// Moves something damaged; says where it is now, if it was still there.
    pub(super) fn set_aside(&self, path: &Path) -> Result<Option<PathBuf>> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let random = hex::encode(crate::digest::random_bytes::<4>());
        let target = self.quarantine().join(format!("{name}.{random}"));
        match fs::rename(path, &target) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            other => other.doing("set aside", path)?,
        }
        // From now on its time is that of its discovery. Where that cannot be noted it goes sooner.
        date_now(&target);
        Ok(Some(target))
    }

    /// Sets a blob aside whose content was read from `read` and found wrong. Another process may have found the same, and
    /// have put a sound one in its place since: that one stays, and the caller is to look again.
    ///
    /// # Errors
    /// It cannot be moved.
    pub(super) fn set_blob_aside(&self, digest: &Digest, read: &File) -> Result<()> {
        let path = self.layout().blob(digest);
        let _no_collection = self.no_collection()?;
        let Some(moved) = self.set_aside(&path)? else { return Ok(()) };
        let file = |of: fs::Metadata| (of.dev(), of.ino());
        let found = fs::symlink_metadata(&moved).doing("inspect", &moved)?;
        if file(found) == file(read.metadata().doing("inspect", &path)?) {
            self.note_damage(&path, "its content has another digest");
            return Ok(());
        }
        // Never over another one: a link fails where a rename would replace.
        match fs::hard_link(&moved, &path) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error).doing("put back", path),
            _ => fs::remove_file(&moved).doing("remove", moved),
        }
    }

    /// Throws away what lay here long enough; all of it where everything goes.
    pub(super) fn sweep_quarantine(
        &self,
        goes_at_once: bool,
        in_time: &dyn Fn() -> bool,
        collected: &mut Collected,
    ) -> Result<()> {
        let keep = if goes_at_once { Keep::Nothing } else { Keep::UsedWithin(KEPT_FOR) };
        for name in names_in(&self.quarantine())? {
            let path = self.quarantine().join(&name);
            let last_used = last_used(&path);
            if keep.allows(last_used) {
                continue;
            }
            let (bytes, _) = directory_usage(&path, in_time)?;
            self.discard_if_there(&path)?;
            collected.damaged += 1;
            collected.bytes += bytes;
            tell(
                collected,
                Gone { id: format!("quarantine/{name}"), kind: ThingKind::Rest, name: None, bytes, last_used },
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::store::gc::PrunePolicy;
    use crate::testing::scratch_store;

    fn count(store: &Store) -> usize {
        names_in(&store.quarantine()).unwrap().len()
    }

    #[test]
    fn what_was_set_aside_stays_for_a_week_or_until_everything_goes() {
        let (_dir, store) = scratch_store();
        for name in ["directory", "file"] {
            let path = store.root().join(name);
            match name {
                "file" => fs::write(&path, "x").unwrap(),
                _ => fs::create_dir(&path).unwrap(),
            }
            // However old it is, its time here begins now.
            File::open(&path).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
            store.damaged(&path, "it is wrong");
        }
        assert_eq!(store.take_damage(), ["directory: it is wrong", "file: it is wrong"]);
        assert_eq!((store.gc().unwrap().damaged, count(&store)), (0, 2));
        for name in names_in(&store.quarantine()).unwrap().iter().filter(|name| name.starts_with("directory")) {
            let file = File::open(store.quarantine().join(name)).unwrap();
            file.set_modified(SystemTime::now() - KEPT_FOR - Duration::from_secs(60)).unwrap();
        }
        let gone = store.gc().unwrap();
        assert_eq!((gone.damaged, gone.gone.len(), count(&store)), (1, 1, 1));
        assert!(gone.gone[0].id.starts_with("quarantine/directory."), "{gone:?}");
        let some = PrunePolicy { records: Keep::UsedWithin(Duration::ZERO), ..Default::default() };
        assert_eq!(store.prune(&some).unwrap().damaged, 0);
        let all = PrunePolicy { records: Keep::Nothing, ..Default::default() };
        assert_eq!((store.prune(&all).unwrap().damaged, count(&store)), (1, 0));
    }

    #[test]
    fn a_blob_that_another_process_made_again_stays() {
        let (_dir, store) = scratch_store();
        let lease = store.lease().unwrap();
        let digest = store.put_blob(&lease, b"right").unwrap();
        let path = store.layout().blob(&digest);
        fs::write(&path, "wrong").unwrap();
        // Two have read it; one of them is slow.
        let (quick, slow) = (File::open(&path).unwrap(), File::open(&path).unwrap());
        store.set_blob_aside(&digest, &quick).unwrap();
        assert_eq!((store.has_blob(&digest), count(&store)), (false, 1));
        store.put_blob(&lease, b"right").unwrap();
        store.set_blob_aside(&digest, &slow).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"right");
        assert_eq!((count(&store), store.take_damage().len()), (1, 1));
        fs::remove_file(&path).unwrap();
        store.set_blob_aside(&digest, &slow).unwrap();
        assert_eq!(count(&store), 1);
    }
}
