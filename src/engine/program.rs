//! A program of an image's that serves a build, such as a frontend: it speaks through its standard input and output.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::event::{poll, PollFd, PollFlags};
use serde_json::Value;
use snapshotter::{Active, Mounted};
use solver::graph::Platform;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::{Receiver, Sender};

use super::arrival::OnLayer;
use super::blocking::blocking;
use super::error::BuildError;
use super::images::{self, Image};
use super::job::Job;
use super::notes::Note;
use super::steps::{self, StepFailure};
use crate::sandbox::{self, Exit, ProcessSpec, Running, Stdio};

/// The label of an image whose program needs no network.
const NO_NETWORK: &str = "moby.buildkit.frontend.network.none";

/// An image that has a program.
#[derive(Clone, Debug)]
pub struct ProgramImage(Image);

impl ProgramImage {
    /// A label of the image.
    pub fn label(&self, name: &str) -> Option<&str> {
        self.runtime("Labels")?.get(name)?.as_str()
    }

    fn runtime(&self, key: &str) -> Option<&Value> {
        self.0.config.get("config")?.get(key)
    }

    fn strings(&self, key: &str) -> Vec<String> {
        let list = self.runtime(key).and_then(Value::as_array).into_iter().flatten();
        list.filter_map(Value::as_str).map(str::to_owned).collect()
    }
}

/// A program that runs. Dropping it kills it.
pub struct Program<'j> {
    /// What it reads.
    pub input: Sender,
    /// What it writes.
    pub output: Receiver,
    running: Running,
    errors: Receiver,
    note: Note<'j>,
    _files: (Mounted, Active),
}

fn io(doing: &'static str) -> impl FnOnce(std::io::Error) -> BuildError {
    move |error| BuildError::Result(StepFailure::io(doing, error))
}

impl Job {
    /// Finds the image of a program, without its files.
    ///
    /// # Errors
    /// It cannot be had.
    pub async fn program_image(&self, reference: &str) -> Result<ProgramImage, BuildError> {
        let name = frontend::normalise_reference(reference)
            .map_err(|e| images::Error::BadName { name: reference.to_owned(), reason: e.to_string() })?;
        let note = self.notes().begin(&format!("resolve image config for docker-image://{name}"));
        let (_, image) = note.end_with(self.bases().named(&name, &Platform::host(), None, []).await)?;
        Ok(ProgramImage(image))
    }

    /// Starts the program of an image: its entrypoint, or `/run`, with `env` besides the image's own. It is root in a
    /// copy of the image's files, which nobody keeps.
    ///
    /// # Errors
    /// The files cannot be had, or the program cannot be started.
    pub async fn start(&self, image: &ProgramImage, env: Vec<String>) -> Result<Program<'_>, BuildError> {
        let name = image.0.entry.name.clone().unwrap_or_else(|| image.0.id().to_string());
        let note = self.notes().begin(&format!("docker-image://{name}"));
        let on_layer: OnLayer = Arc::new(|_, _, _, _| {});
        let top = self.bases().remote().files(&image.0, &on_layer).await?;
        let host = Arc::clone(self.host());
        let image = image.clone();
        let sandbox = host.sandbox()?;
        let (running, files) = blocking(move || {
            let active = host.store().prepare(top.as_ref(), host.lease())?;
            let mounted = active.mount()?;
            let root = mounted.root().try_clone_to_owned().map_err(io("open the program's files"))?;
            let running = sandbox.spawn(spec(&image, root, env)).map_err(|source| {
                let command = image.strings("Entrypoint").join(" ");
                BuildError::Result(StepFailure::Start { command, source })
            })?;
            Ok::<_, BuildError>((running, (mounted, active)))
        })
        .await?;
        let mut running = running;
        let missing = || BuildError::Bug("a program without its pipes".to_owned());
        let take = |pipe: &mut Option<OwnedFd>| pipe.take().ok_or_else(missing);
        let input = Sender::from_owned_fd(take(&mut running.stdin)?).map_err(io("speak with the program"))?;
        let output = Receiver::from_owned_fd(take(&mut running.stdout)?).map_err(io("hear the program"))?;
        let errors = Receiver::from_owned_fd(take(&mut running.stderr)?).map_err(io("hear the program"))?;
        Ok(Program { input, output, running, errors, note, _files: files })
    }
}

fn spec(image: &ProgramImage, root: OwnedFd, more: Vec<String>) -> ProcessSpec {
    let mut env = image.strings("Env");
    if !env.iter().any(|pair| pair.starts_with("PATH=")) {
        env.push(steps::DEFAULT_PATH.to_owned());
    }
    env.extend(more);
    let words = image.strings("Entrypoint");
    let words = if words.is_empty() { vec!["/run".to_owned()] } else { words };
    let workdir = image.runtime("WorkingDir").and_then(Value::as_str).unwrap_or_default();
    let network = match image.label(NO_NETWORK) {
        Some("true" | "1") => sandbox::Network::None,
        _ => sandbox::default_network().0,
    };
    ProcessSpec {
        env: env.into_iter().map(OsString::from).collect(),
        cwd: Path::new("/").join(PathBuf::from(workdir)),
        network,
        resolv_conf: if network == sandbox::Network::None { Vec::new() } else { sandbox::host_resolv_conf() },
        stdin: Stdio::Pipe,
        ..ProcessSpec::new(root, words)
    }
}

impl<'j> Program<'j> {
    /// Its ends for whoever speaks with it, and the rest, which is to be waited for.
    pub fn split(self) -> ((Receiver, Sender), ProgramRest<'j>) {
        let Program { input, output, running, errors, note, _files } = self;
        ((output, input), ProgramRest { running, errors, note, _files })
    }
}

/// A program whose pipes somebody else has.
pub struct ProgramRest<'j> {
    running: Running,
    errors: Receiver,
    note: Note<'j>,
    _files: (Mounted, Active),
}

impl ProgramRest<'_> {
    /// Shows what the program complains about, and waits for its end: its exit code, or 128 and the signal's number.
    ///
    /// # Errors
    /// It was lost.
    pub async fn wait(self) -> Result<i32, BuildError> {
        let ProgramRest { mut running, mut errors, note, _files } = self;
        let mut buffer = vec![0; 8 << 10];
        while let Ok(length @ 1..) = errors.read(&mut buffer).await {
            note.log(2, buffer.get(..length).unwrap_or_default());
        }
        let pidfd = running.pidfd().try_clone_to_owned().map_err(io("watch the program"))?;
        blocking(move || {
            let mut watched = [PollFd::new(&pidfd, PollFlags::IN)];
            while let Err(rustix::io::Errno::INTR) = poll(&mut watched, None) {}
        })
        .await;
        let exit = running.wait();
        let exit = exit.map_err(|source| StepFailure::Start { command: "frontend".to_owned(), source });
        Ok(match note.end_with(exit)? {
            Exit::Code(code) => code,
            Exit::Signal(signal) => 128 + signal,
        })
    }
}
