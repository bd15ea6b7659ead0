//! A blob on its way into a directory of ours: there whole and as its digest says, or not at all.

use std::fs;
use std::io::Write;
use std::path::PathBuf;

use sha2::{Digest as _, Sha256};
use tempfile::NamedTempFile;
use tokio::sync::mpsc;
use tokio_stream::{Stream, StreamExt};
use tonic::Status;

use super::told;
use crate::image::Digest;
use crate::wire::proto::content::{WriteAction, WriteContentRequest, WriteContentResponse};

/// What came of a blob.
pub(super) struct Taken {
    /// The OCI layout that it goes to.
    directory: PathBuf,
    open: Option<Open>,
}

struct Open {
    file: NamedTempFile,
    hash: Sha256,
    size: u64,
    expected: Option<Digest>,
}

impl Taken {
    pub(super) fn new(directory: PathBuf) -> Taken {
        Taken { directory, open: None }
    }

    fn blobs(&self) -> PathBuf {
        self.directory.join("blobs/sha256")
    }

    /// Takes a message, and answers it; `true` when the blob is there.
    fn message(&mut self, said: &WriteContentRequest) -> Result<(WriteContentResponse, bool), Status> {
        let action = WriteAction::try_from(said.action).map_err(|_| Status::invalid_argument("an unknown action"))?;
        let digest = |text: &str| match text {
            "" => Ok(None),
            text => text.parse().map(Some).map_err(|_| Status::invalid_argument(format!("{text:?} is no digest"))),
        };
        let expected: Option<Digest> = digest(&said.expected)?;
        if expected.is_some_and(|digest| self.blobs().join(digest.hex()).is_file()) {
            return Err(Status::already_exists(format!("content {}: already exists", said.expected)));
        }
        if self.open.is_none() {
            fs::create_dir_all(self.blobs()).map_err(|e| told(&e))?;
            let file = NamedTempFile::with_prefix_in(".ingest-", &self.directory).map_err(|e| told(&e))?;
            self.open = Some(Open { file, hash: Sha256::new(), size: 0, expected });
        }
        let Some(open) = &mut self.open else { return Err(Status::internal("no file")) };
        open.expected = open.expected.or(expected);
        let mut answer = WriteContentResponse { action: said.action, total: said.total, ..Default::default() };
        if action != WriteAction::Stat && !said.data.is_empty() {
            if u64::try_from(said.offset) != Ok(open.size) {
                return Err(Status::out_of_range(format!("{} bytes are here, not {}", open.size, said.offset)));
            }
            open.file.write_all(&said.data).map_err(|e| told(&e))?;
            open.hash.update(&said.data);
            open.size += said.data.len() as u64;
        }
        answer.offset = i64::try_from(open.size).unwrap_or(i64::MAX);
        if action != WriteAction::Commit {
            return Ok((answer, false));
        }
        let made = self.commit(said.total)?;
        answer.digest = made.to_string();
        Ok((answer, true))
    }

    fn commit(&mut self, total: i64) -> Result<Digest, Status> {
        let Some(open) = self.open.take() else { return Err(Status::failed_precondition("nothing came")) };
        let digest = Digest::from_sha256(open.hash.finalize().into());
        if total > 0 && u64::try_from(total) != Ok(open.size) {
            return Err(Status::failed_precondition(format!("{} bytes came, not {total}", open.size)));
        }
        if let Some(expected) = open.expected.filter(|expected| *expected != digest) {
            return Err(Status::failed_precondition(format!("{digest} came, not {expected}")));
        }
        // As every file of the user's, and not for its owner only.
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
        open.file.as_file().set_permissions(mode).map_err(|e| told(&e))?;
        open.file.persist(self.blobs().join(digest.hex())).map_err(|e| told(&e.error))?;
        Ok(digest)
    }
}

/// Takes a blob and answers every message, until it is there.
pub(super) async fn ingest(
    mut incoming: impl Stream<Item = Result<WriteContentRequest, Status>> + Unpin,
    mut taken: Taken,
    answer: &mpsc::Sender<Result<WriteContentResponse, Status>>,
) -> Result<(), Status> {
    while let Some(said) = incoming.next().await {
        let said = said?;
        let worked = tokio::task::spawn_blocking(move || {
            let answered = taken.message(&said);
            (taken, answered)
        });
        let (back, answered) = worked.await.map_err(|_| Status::internal("a thread died"))?;
        taken = back;
        let (told, is_there) = answered?;
        if answer.send(Ok(told)).await.is_err() || is_there {
            return Ok(());
        }
    }
    Err(Status::failed_precondition("the call ended before the blob did"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn say(action: WriteAction, offset: i64, data: &'static [u8], expected: &str) -> WriteContentRequest {
        let expected = expected.to_owned();
        WriteContentRequest { action: action as i32, offset, data: data.into(), expected, ..Default::default() }
    }

    async fn all(taken: Taken, said: Vec<WriteContentRequest>) -> Result<Vec<WriteContentResponse>, Status> {
        let (answer, mut answers) = mpsc::channel(16);
        ingest(tokio_stream::iter(said.into_iter().map(Ok)), taken, &answer).await?;
        drop(answer);
        let mut all = Vec::new();
        while let Some(answer) = answers.recv().await {
            all.push(answer.unwrap());
        }
        Ok(all)
    }

    #[tokio::test]
    async fn a_blob_is_taken_if_it_is_what_was_announced() {
        let dir = tempfile::tempdir().unwrap();
        let to = || Taken::new(dir.path().join("out"));
        let digest = Digest::of(b"whole");
        let name = digest.to_string();
        let talk = |last: &'static [u8]| {
            vec![
                say(WriteAction::Stat, 0, b"", &name),
                say(WriteAction::Write, 0, b"who", ""),
                say(WriteAction::Write, 3, last, ""),
                say(WriteAction::Commit, 5, b"", &name),
            ]
        };
        assert_eq!(all(to(), talk(b"se")).await.unwrap_err().code(), tonic::Code::FailedPrecondition);
        let answers = all(to(), talk(b"le")).await.unwrap();
        assert_eq!(answers.iter().map(|answer| answer.offset).collect::<Vec<_>>(), [0, 3, 5, 5]);
        assert_eq!(answers[3].digest, name);
        let there = dir.path().join("out/blobs/sha256").join(digest.hex());
        assert_eq!(fs::read(there).unwrap(), b"whole");
        assert_eq!(all(to(), talk(b"le")).await.unwrap_err().code(), tonic::Code::AlreadyExists);
        let gap = vec![say(WriteAction::Write, 1, b"x", "")];
        assert_eq!(all(to(), gap).await.unwrap_err().code(), tonic::Code::OutOfRange);
        let short = vec![say(WriteAction::Write, 0, b"x", "")];
        assert!(all(to(), short).await.is_err(), "half a blob is none");
        let away = vec![say(WriteAction::Stat, 0, b"", "sha256:../../x")];
        assert_eq!(all(to(), away).await.unwrap_err().code(), tonic::Code::InvalidArgument);
        assert_eq!(fs::read_dir(dir.path().join("out")).unwrap().count(), 1, "nothing is left of them");
    }
}
