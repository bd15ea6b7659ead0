//! A file of the web as a tree: downloaded once, and again only when the server says that it changed.

use std::fs::{File, OpenOptions};
use std::io::BufReader;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fs::OFlags;
use snapshotter::Active;
use solver::graph::op::SourceOp;
use solver::graph::{OutputIndex, Vertex};
use solver::key::CacheKey;
use solver::port::{AskCx, Record};

use super::{dress, note, noted};
use crate::engine::blocking::blocking;
use crate::engine::client::{Client, UPLOADS};
use crate::engine::explain::{Base, BaseKind};
use crate::engine::host::EngineHost;
use crate::engine::steps::{hashed, StepFailure};
use crate::registry::Secret;
use crate::sandbox::open_inside;
use crate::source::http::{Answer, Download, Known, Wanted};

impl EngineHost {
    pub(in crate::engine) async fn pin_http(
        &self,
        at: &AskCx,
        vertex: &Vertex,
        source: &SourceOp,
    ) -> Result<Record, StepFailure> {
        let wanted = Wanted::read(&source.identifier, &source.attrs)?;
        if wanted.host() == UPLOADS {
            return self.pin_upload(at, &wanted).await;
        }
        let (record, known) = self.downloaded(at, &wanted).await?;
        let (kind, name, digest) = (BaseKind::Download, wanted.shown(), format!("sha256:{}", known.sha256));
        self.submitted(at)?.resolved(vertex, Base { kind, name, digest, ..Base::default() });
        if wanted.is_signed() {
            // Whoever wants no signature may have the same file.
            self.check_signed(&record, known.name, wanted).await?;
        }
        Ok(record)
    }

    /// The file, and what is known of it.
    async fn downloaded(&self, at: &AskCx, wanted: &Wanted) -> Result<(Record, Known), StepFailure> {
        let notes = self.store().context_directory();
        let notes = notes.join(format!("{}.http", hex::encode(&wanted.identity()[..16])));
        let known: Option<Known> = noted(&notes);
        // A server that is asked whether something changed may only be asked about what is still here.
        let kept = match &known {
            Some(known) => self.stored(key(wanted, known)).await?.map(|record| (known, record)),
            None => None,
        };
        if let Some((known, record)) = kept.as_ref().filter(|(known, _)| wanted.is_met_by(known)) {
            at.cached();
            return Ok((record.clone(), Known::clone(known)));
        }
        // One that is not what was asked for is of no use, however unchanged.
        let kept = kept.filter(|_| !wanted.is_particular());
        let authorization = authorization(self.client(at)?.as_ref(), wanted).await?;
        let web = self.remote().registry()?.clone();
        match (wanted.ask(&web, authorization, kept.as_ref().map(|(known, _)| *known)).await?, kept) {
            (Answer::File(download), _) => {
                let began = Instant::now();
                let active = self.store().prepare(None, self.lease())?;
                let known = write(wanted, download, &active, at).await?;
                let key = key(wanted, &known);
                // The same bytes may come under another tag.
                let record = match self.stored(key).await? {
                    Some(record) => record,
                    None => self.keep_source(key, active, began.elapsed()).await?,
                };
                let noted = known.clone();
                blocking(move || note(&notes, &noted)).await;
                Ok((record, known))
            }
            (Answer::Unchanged, Some((known, record))) => {
                at.cached();
                Ok((record, known.clone()))
            }
            (Answer::Unchanged, None) => Err(StepFailure::Unsupported("a file that did not change and is not known")),
        }
    }

    /// Holds a file that is here against the signature that it must have.
    async fn check_signed(&self, record: &Record, name: String, wanted: Wanted) -> Result<(), StepFailure> {
        let output = self.result(record.output(OutputIndex(0)));
        let tree = output.and_then(|output| output.files.snapshot());
        let tree = tree.ok_or(StepFailure::Unsupported("the signature of what is no file"))?;
        let (store, lease) = (self.store().clone(), Arc::clone(self.lease()));
        blocking(move || {
            lease.hold_snapshot(&tree)?;
            let view = store.view(Some(&tree), &lease)?;
            let mounted = view.mount()?;
            let file = open_inside(mounted.root(), &name, OFlags::RDONLY | OFlags::NOFOLLOW);
            let file = file.map_err(|error| StepFailure::io("open a downloaded file", error))?;
            Ok(wanted.check_signature(&mut BufReader::new(File::from(file)))?)
        })
        .await
    }
}

/// Downloads the file into the tree.
async fn write(wanted: &Wanted, download: Box<Download>, active: &Active, at: &AskCx) -> Result<Known, StepFailure> {
    let failed = |source| StepFailure::io("write a downloaded file", source);
    let path = active.upper().join(&download.name);
    let mut file: File = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
    let (progress, name) = (at.clone(), wanted.shown());
    let told = std::sync::Mutex::new(Instant::now());
    let on_bytes = move |current: u64, total: u64| {
        let mut told = told.lock().unwrap_or_else(|e| e.into_inner());
        if told.elapsed() >= Duration::from_millis(100) {
            *told = Instant::now();
            progress.progress(&name, current as i64, total as i64, false);
        }
    };
    let known = wanted.save(download, &mut file, &on_bytes).await?;
    let size = file.metadata().map_err(failed)?.len() as i64;
    at.progress(&wanted.shown(), size, size, true);
    dress(&file, &wanted.file, known.modified()).map_err(failed)?;
    Ok(known)
}

/// What the tree of a known file is kept under: all that can be seen of it.
fn key(wanted: &Wanted, known: &Known) -> CacheKey {
    let about = [
        u64::from(wanted.file.mode).to_le_bytes(),
        u64::from(wanted.file.uid).to_le_bytes(),
        u64::from(wanted.file.gid).to_le_bytes(),
        known.modified().to_le_bytes(),
    ];
    let parts = [&known.sha256, &known.name].map(|text| *blake3::hash(text.as_bytes()).as_bytes());
    let about = *blake3::hash(&about.concat()).as_bytes();
    CacheKey(hashed("rbuild download record", &[&parts[0], &parts[1], &about]).0)
}

/// The value of `Authorization`, if the client has one for this source: the secret that it names, or those for its host.
///
/// <https://docs.docker.com/build/building/secrets/>
async fn authorization(client: &dyn Client, wanted: &Wanted) -> Result<Option<Secret>, StepFailure> {
    if let Some(id) = &wanted.secret {
        let value = client.secret(id).await?.ok_or_else(|| StepFailure::NoSecret { id: id.clone() })?;
        return Ok(Some(line(value.bytes())));
    }
    if let Some(value) = client.secret(&format!("HTTP_AUTH_HEADER_{}", wanted.host())).await? {
        return Ok(Some(line(value.bytes())));
    }
    let token = client.secret(&format!("HTTP_AUTH_TOKEN_{}", wanted.host())).await?;
    Ok(token.map(|token| Secret::new(format!("Bearer {}", line(token.bytes()).expose()))))
}

/// A secret as text; files end with a line end that nobody means.
fn line(bytes: &[u8]) -> Secret {
    Secret::new(String::from_utf8_lossy(bytes).trim())
}
