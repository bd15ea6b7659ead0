//! What a daemon does instead of this process: the same command lines, the same output.

use std::cell::Cell;
use std::time::Duration;

use serde_json::json;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{signal, SignalKind};

use super::args::{self, Command, Format, Progress, Prune, Verb, HOST};
use super::build::{check_writable, doubts, tell, with_logs, Load, Report, INTERRUPTED, PARTING, TERMINATED};
use super::call;
use super::client::LocalClient;
use super::excerpt::{printable, Excerpt, Span};
use super::failure::{chain, Failure};
use super::images::bytes;
use super::past::Past;
use super::request::from_args;
use super::screen::Screen;
use super::space;
use crate::courier::{Address, Audience, Clearing, Daemon, Error, Kept, Offer, Order, Tls};
use crate::engine::Client;
use crate::export::Output;
use crate::progress::View;
use crate::wire::failure::Detail;

/// A daemon that is to do it.
#[derive(Debug)]
pub(super) struct Asked {
    address: Address,
    tls: Tls,
}

/// Which daemon is asked: the one that was typed, else the environment's; an empty address is nobody's.
pub(super) fn asked(command: &mut Command) -> Result<Option<Asked>, Failure> {
    let Some(reach) = command.verb.reach() else { return Ok(None) };
    let (typed, reach) = (reach.addr.is_some(), std::mem::take(reach));
    let tls = Tls { ca: reach.tlscacert, pair: reach.tlscert.zip(reach.tlskey), server_name: reach.tlsservername };
    let addr = reach.addr.or_else(|| std::env::var(HOST).ok()).filter(|addr| !addr.is_empty());
    let Some(addr) = addr else {
        return match tls.is_off() {
            true => Ok(None),
            false => Err(Failure::misuse("--tls…: there is no daemon to connect to; say which with --addr".into())),
        };
    };
    let named = if typed { "--addr" } else { HOST };
    let address: Address = addr.parse().map_err(|e| Failure::misuse(format!("{named}: {e}")))?;
    if !tls.is_off() && !matches!(address, Address::Tcp { .. }) {
        return Err(Failure::misuse(format!("{named} {address}: only a tcp:// address can have TLS")));
    }
    if command.global.root_is_typed {
        return Err(Failure::misuse(format!(
            "--root is where this machine's store is, and {named} has a daemon do it, which has its own"
        )));
    }
    Ok(Some(Asked { address, tls }))
}

/// Has it done.
pub(super) fn dispatch(verb: Verb, asked: &Asked) -> Result<u8, Failure> {
    match verb {
        Verb::Build(args) => build(&args, asked),
        Verb::Du(args) => usage(asked, args.format, &args.filters),
        Verb::Prune(args) => prune(asked, &args),
        Verb::Workers(args) => workers(asked, args.format),
        Verb::History(verb) => {
            let runtime = runtime()?;
            let daemon = runtime.block_on(Daemon::connect(&asked.address, &asked.tls))?;
            super::history::history(&Past::There(Box::new(daemon), Box::new(runtime)), &verb)
        }
        _ => Err(Failure::misuse("no daemon can be asked for this".to_string())),
    }
}

/// `rbuild build`
fn build(args: &args::Build, asked: &Asked) -> Result<u8, Failure> {
    if args.jobs.is_some() {
        return Err(Failure::misuse("--jobs: a daemon decides itself how many steps run at once".to_string()));
    }
    if call::Call::from_args(args)?.is_some() {
        return Err(Failure::misuse(
            "--call and --check are answered here, not by a daemon: leave --addr out".to_string(),
        ));
    }
    let (mut request, client) = from_args(args)?;
    check_writable(args)?;
    let is_engine = matches!(asked.address, Address::Engine(_));
    let load = match is_engine && args.load {
        // It builds where it is to be loaded.
        true => {
            request.exports.outputs.push(Output::parse("type=image")?);
            None
        }
        false => Load::prepare(args, &mut request)?,
    };
    let screen = Screen::start(args.progress, args.quiet)?;
    let warn = |words: String| match args.progress {
        Progress::Rawjson => screen.warn(words),
        _ => remark!("WARNING: {words}"),
    };
    if asked.tls.is_off() && !asked.address.is_here() {
        warn(format!(
            "the connection to {} is not encrypted: whoever listens can read secrets and credentials; give --tlscacert",
            asked.address
        ));
    }
    let wants_id = args.quiet || args.iidfile.is_some() || args.metadata_file.is_some();
    if !wants_id && !is_engine && request.exports.outputs.is_empty() && request.exports.names.is_empty() {
        warn(format!(
            "the result stays in the cache of the daemon at {}: name it with -t, or take it with --load, --push or -o",
            asked.address
        ));
    }
    // What came on standard input is there until the build is done.
    let (offer, _spool) = offer(client);
    let to_stdout = request.exports.outputs.iter().any(Output::is_to_stdout);
    let order = Order { request, offer, wants_id };
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let audience = Audience { events: screen.sink(None), backlog: &screen.backlog() };
    let (made, signal) = runtime.block_on(follow(asked, order, audience));
    // What is still on its way, such as the end of a call, is given a moment.
    runtime.shutdown_timeout(PARTING);
    let view = screen.finish();
    doubts(args, &view);
    match made {
        Err(Error::Stopped) => {
            remark!("ERROR: interrupted");
            Ok(signal)
        }
        Err(error) => {
            remark!("{}", complaint(&error, &view).trim_end());
            Err(Failure::silent(1))
        }
        Ok(made) => {
            if let Some(load) = load {
                load.finish()?;
            }
            let report = Report { image: made.image().map(str::to_owned), metadata: made.metadata() };
            tell(args, &report, to_stdout)?;
            Ok(0)
        }
    }
}

/// Follows a build to its end or to a signal, whose exit code it gives.
async fn follow(asked: &Asked, order: Order, audience: Audience<'_>) -> (Result<crate::courier::Made, Error>, u8) {
    let code = Cell::new(INTERRUPTED);
    let stop = async {
        let signals = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()));
        let (Ok(mut interrupt), Ok(mut terminate)) = signals else { return std::future::pending().await };
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => code.set(TERMINATED),
        }
    };
    let made = match Daemon::connect(&asked.address, &asked.tls).await {
        Ok(daemon) => daemon.build(order, audience, stop).await,
        Err(error) => Err(error),
    };
    (made, code.get())
}

fn offer(client: LocalClient) -> (Offer, Option<tempfile::TempDir>) {
    let credentials = client.credentials();
    let LocalClient { directories, secrets, agents, layouts, uploads, _spool } = client;
    (Offer { directories, secrets, agents, layouts, uploads, credentials }, _spool)
}

/// Why a build failed, as a build here says it.
fn complaint(error: &Error, view: &View) -> String {
    let mut failure = with_logs(chain(error), view);
    let Error::Said(said) = error else {
        failure.doing = "build".to_string();
        if let Error::NoDaemon { address, .. } = error {
            // An engine's socket speaks another language until it is asked for its BuildKit.
            failure.help.extend(
                address
                    .strip_prefix("unix://")
                    .map(|path| format!("if that is the socket of a Docker engine, write docker+unix://{path}")),
            );
        }
        return failure.to_string();
    };
    for detail in &said.details {
        let Detail::Source(source) = detail else { continue };
        let Some(info) = &source.info else { continue };
        let line = |at: &Option<crate::wire::proto::pb::Position>| {
            at.as_ref().map_or(0, |at| usize::try_from(at.line).unwrap_or(0))
        };
        let spans = source.ranges.iter().map(|range| {
            let first = line(&range.start);
            Span::lines(first..=line(&range.end).max(first))
        });
        let text = String::from_utf8_lossy(&info.data).into_owned();
        let excerpt = Excerpt { file: info.filename.clone(), text, above: 0, spans: spans.collect() };
        // Each frontend on the way may have said so.
        if !failure.excerpts.contains(&excerpt) {
            failure.excerpts.push(excerpt);
        }
    }
    failure.help.extend(help(&said.message));
    failure.to_string()
}

/// What the user can do about what daemons say.
fn help(said: &str) -> Option<String> {
    let word_between = |before: &str, after: &str| -> Option<String> {
        let (_, rest) = said.split_once(before)?;
        let (word, _) = rest.split_once(after)?;
        (!word.is_empty() && !word.contains(char::is_whitespace)).then(|| word.to_string())
    };
    if let Some(name) = word_between("granting entitlement ", " is not allowed by build daemon configuration") {
        return Some(format!("who runs the daemon can allow it with insecure-entitlements = [\"{name}\"]"));
    }
    for name in ["network.host", "security.insecure"] {
        if said.contains(&format!("{name} is not allowed")) {
            return Some(format!("allow it with --allow {name}"));
        }
    }
    if let Some(name) = word_between("device ", " is requested by the build but not allowed") {
        return Some(format!("allow it with --allow device={name}"));
    }
    if let Some(id) = word_between("secret ", ": not found") {
        return Some(format!("give it with --secret id={id},src=FILE or --secret id={id},env=VARIABLE"));
    }
    if let Some(id) = word_between("no SSH key \"", "\" forwarded from the client") {
        return Some(format!("forward an ssh agent with --ssh {id}"));
    }
    if said.contains("unknown scheme oci-layout") {
        return Some("the BuildKit of this engine reads no OCI layouts; name an image of a registry".to_string());
    }
    word_between("exporter \"", "\" could not be found").map(|kind| {
        format!("this daemon has no output of type {kind}; -o type=local and -o type=tar are there everywhere")
    })
}

fn runtime() -> Result<Runtime, Failure> {
    Ok(Builder::new_current_thread().enable_all().build()?)
}

/// `rbuild du`
fn usage(asked: &Asked, format: Format, filters: &[String]) -> Result<u8, Failure> {
    let (filter, unused_for) = conditions(filters)?;
    let daemon = async { Daemon::connect(&asked.address, &asked.tls).await?.usage(filter, unused_for).await };
    let kept = runtime()?.block_on(daemon);
    let kept = kept?;
    space::list(&kept, format)?;
    Ok(0)
}

/// `rbuild prune`
fn prune(asked: &Asked, args: &Prune) -> Result<u8, Failure> {
    let what = clearing(args)?;
    let (mut freed, mut rows) = (0u64, Vec::new());
    let each = |kept: Kept| {
        freed = freed.saturating_add(kept.size);
        if args.verbose {
            rows.push(space::row(&kept));
        }
    };
    runtime()?.block_on(async { Daemon::connect(&asked.address, &asked.tls).await?.prune(&what, each).await })?;
    for row in rows {
        say!("{row}");
    }
    say!("Total reclaimed space: {}", bytes(freed));
    Ok(0)
}

/// What `--filter` options ask of a daemon: its own filter, and for how long it must not have been used.
fn conditions(filters: &[String]) -> Result<(String, Duration), Failure> {
    let (mut conditions, mut unused_for) = (Vec::new(), Duration::ZERO);
    for filter in filters {
        match filter.strip_prefix("until=") {
            Some(age) => {
                let bad = || Failure::misuse(format!("--filter {filter}: want a duration, as in until=24h"));
                unused_for = space::duration(age).ok_or_else(bad)?;
            }
            None => conditions.push(space::condition(filter)),
        }
    }
    Ok((conditions.join(","), unused_for))
}

/// What the options ask a daemon to clear.
fn clearing(args: &Prune) -> Result<Clearing, Failure> {
    let (filter, unused_for) = conditions(&args.filters)?;
    let limit = |name: &str, text: &Option<String>| match text {
        Some(text) => space::size(text).ok_or_else(|| Failure::misuse(format!("--{name} {text}: not a size"))),
        None => Ok(0),
    };
    let most = limit("max-used-space", &args.max_used_space)?;
    Ok(Clearing {
        all: args.all,
        filter,
        unused_for,
        most,
        reserved: limit("reserved-space", &args.reserved_space)?,
        least_free: limit("min-free-space", &args.min_free_space)?,
    })
}

/// `rbuild workers`
fn workers(asked: &Asked, format: Format) -> Result<u8, Failure> {
    let daemon = runtime()?.block_on(Daemon::connect(&asked.address, &asked.tls))?;
    if format == Format::Table {
        say!("{:26} {:40} PLATFORMS", "ID", "VERSION");
    }
    for worker in daemon.workers() {
        match format {
            Format::Json => say!(
                "{}",
                json!({"ID": worker.id, "Version": worker.version, "Platforms": worker.platforms, "Labels": worker.labels})
            ),
            Format::Table => {
                say!(
                    "{}",
                    printable(&format!("{:26} {:40} {}", worker.id, worker.version, worker.platforms.join(",")))
                );
            }
        }
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::failure::Failure as Said;
    use crate::wire::proto::{errdefs, pb};

    fn source(line: i32, data: &[u8]) -> Detail {
        let at = |line| Some(pb::Position { line, character: 0 });
        let info = pb::SourceInfo { filename: "Dockerfile".into(), data: data.to_vec(), ..Default::default() };
        Detail::Source(errdefs::Source { info: Some(info), ranges: vec![pb::Range { start: at(line), end: at(line) }] })
    }

    #[test]
    fn an_error_brings_its_excerpt_and_what_helps() {
        let said = Said::new(tonic::Code::Unknown, "failed to load: network.host is not allowed")
            .about(source(2, b"FROM x\nRUN y\n"))
            .about(source(2, b"FROM x\nRUN y\n"))
            .about(Detail::Vertex(errdefs::Vertex { digest: "sha256:x".into() }));
        let text = complaint(&Error::Said(Box::new(said)), &View::default());
        assert_eq!(text.matches("2 | >>> RUN y").count(), 1, "{text}");
        assert!(text.contains("help: allow it with --allow network.host\n"), "{text}");
        assert!(text.ends_with("ERROR: failed to solve: failed to load: network.host is not allowed\n"), "{text}");
    }

    #[test]
    fn places_that_are_none_are_not_shown() {
        for line in [i32::MIN, -1, 0, 9, i32::MAX] {
            let said = Said::new(tonic::Code::Unknown, "x\x1b[2J").about(source(line, b"FROM x\n\xff"));
            let text = complaint(&Error::Said(Box::new(said)), &View::default());
            assert_eq!(text, "ERROR: failed to solve: x\u{fffd}[2J\n", "{line}");
        }
    }

    #[test]
    fn words_of_daemons_are_understood() {
        for (said, want) in [
            ("secret token: not found", Some("--secret id=token,src=FILE")),
            ("no SSH key \"git\" forwarded from the client", Some("--ssh git")),
            ("granting entitlement network.host is not allowed by build daemon configuration", Some("insecure-")),
            ("security.insecure is not allowed", Some("--allow security.insecure")),
            ("exporter \"oci\" could not be found", Some("type oci")),
            ("the secret of it: not found", None),
            ("exit code: 1", None),
        ] {
            let help = help(said);
            assert_eq!(help.is_some(), want.is_some(), "{said}: {help:?}");
            assert!(help.unwrap_or_default().contains(want.unwrap_or_default()), "{said}");
        }
    }
}
