//! The command line: argv to a request, events to a screen, errors to text and exit codes.
//!
//! *Job*: everything a person types and reads. *Not its job*: building. *Start reading at* [`main`], then `build`.

/// Prints a line of the result; see [`say`].
macro_rules! say {
    ($($words:tt)*) => { $crate::cli::say(format_args!($($words)*))? };
}

/// Prints a line for the person; that nobody can read it changes nothing.
macro_rules! remark {
    ($($words:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), $($words)*);
    }};
}

mod args;
mod build;
mod call;
mod client;
mod contexts;
mod debug;
pub use frontend::excerpt;
mod failure;
mod history;
mod images;
mod import;
mod limits;
mod name;
mod owners;
mod past;
mod policy;
mod remote;
pub mod render;
mod request;
mod resources;
mod run;
mod screen;
mod serve;
mod space;
mod switches;
mod transfer;

use std::ffi::OsStr;
use std::fmt;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use args::{Verb, ROOT};
use failure::{chain, Failure};
use snapshotter::Store;

use crate::history::History;
use crate::registry::helper;
use crate::sandbox::rootless;
use past::Past;

/// Does what the command line says.
///
/// Exit codes: 0, 1 when it fails, 2 when what was typed makes no sense by itself, 130 and 143 when interrupted; `run`
/// gives the command's own.
pub fn main() -> ExitCode {
    args::forget_empty_variables();
    let mut command = match args::parse(std::env::args_os().collect()) {
        Ok(command) => command,
        Err(said) => {
            let _ = said.print();
            return if said.use_stderr() { ExitCode::from(2) } else { ExitCode::SUCCESS };
        }
    };
    let daemon = match remote::asked(&mut command) {
        Ok(daemon) => daemon,
        Err(failure) => return end(Err(failure)),
    };
    if let Some(daemon) = daemon {
        return end(remote::dispatch(command.verb, &daemon));
    }
    let configured = || match &command.verb {
        Verb::Serve(args) => serve::configured_root(args),
        _ => None,
    };
    let root = command.global.root.clone().or_else(configured).unwrap_or_else(default_root);
    let done = match command.verb.uses_store() {
        // What follows may be another process, which finds its home elsewhere: the store's place is settled here.
        true => {
            let address = serve::default_address();
            let settled = [(ROOT, root.as_os_str()), (args::DEFAULT_ADDRESS, OsStr::new(&address))];
            rootless::enter(&settled, helper::perform).map_err(Failure::from)
        }
        false => Ok(None),
    };
    let done = done.map(|outside| {
        if let Some(outside) = outside {
            // In here the user is root, and a keyring would not know them.
            helper::run_elsewhere(Box::new(move |request| outside.ask(request)));
        }
    });
    end(done.and_then(|()| dispatch(command.verb, root)))
}

/// Says why it did not go well, if that was not said.
fn end(done: Result<u8, Failure>) -> ExitCode {
    match done {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            if !failure.message.is_empty() {
                remark!("{}: {}", if failure.code == 2 { "error" } else { "ERROR" }, failure.message);
            }
            ExitCode::from(failure.code)
        }
    }
}

fn dispatch(verb: Verb, root: PathBuf) -> Result<u8, Failure> {
    let open = || {
        Store::open(&root).map_err(|e| {
            let help = owners::help(&e).map(|help| format!("\nhelp: {help}")).unwrap_or_default();
            Failure::user(format!("{}{help}", chain(&e)))
        })
    };
    match verb {
        Verb::Build(args) => match call::Call::from_args(&args)? {
            Some(call) => call::call(call, &args, &root),
            None => build::build(&args, &root),
        },
        Verb::Images(args) => images::list(&open()?, &args),
        Verb::Inspect { names } => images::inspect(&open()?, &names),
        Verb::Tag { source, target } => images::tag(&open()?, &source, &target),
        Verb::Rmi { names } => images::remove(&open()?, &names),
        Verb::Pull { name, platform } => transfer::pull(open()?, &name, platform.as_deref()),
        Verb::Push { names } => transfer::push(open()?, &names),
        Verb::Import { file, name } => import::import(&open()?, &file, &name),
        Verb::Run(args) => run::run(&open()?, &args),
        Verb::Du(args) => space::usage(&open()?, &args),
        Verb::Workers(_) => Err(Failure::misuse("workers are a daemon's: say which with --addr".to_string())),
        Verb::Prune(args) => space::prune(open, &args),
        Verb::Fsck => space::check(&open()?),
        Verb::History(verb) => history::history(&Past::Here(History::at(open()?.history_directory())), &verb),
        Verb::Explain(args) => history::explain(History::at(open()?.history_directory()), &args),
        Verb::Serve(args) => serve::serve(args, &root),
        Verb::DialStdio(args) => serve::dial_stdio(&args),
        Verb::Debug(args) => debug::debug(&args, &root),
    }
}

/// Prints a line of the result. A reader who has seen enough and left is told nothing more.
fn say(line: fmt::Arguments) -> Result<(), Failure> {
    writeln!(io::stdout(), "{line}").map_err(|e| match e.kind() {
        io::ErrorKind::BrokenPipe => Failure::silent(1),
        _ => Failure::user(format!("write to standard output: {}", request::reason(&e))),
    })
}

/// Where the store is when nobody says.
fn default_root() -> PathBuf {
    if rustix::process::geteuid().is_root() {
        return PathBuf::from("/var/lib/rbuild");
    }
    let named = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    named("XDG_DATA_HOME")
        .or_else(|| named("HOME").map(|home| home.join(".local/share")))
        .unwrap_or_else(|| PathBuf::from("."))
        .join("rbuild")
}
