//! Contexts: the build's own, and those that have names.

use std::collections::{BTreeMap, BTreeSet};

use solver::graph::op::{ActionInput, FileAction, FileActionKind, FileCopy, FileOp, Op, SourceOp};
use solver::graph::{NewVertex, OutputIndex, OutputRef, Platform, VertexId};

use super::build::{json_list, About, Build};
use super::from;
use super::paper::Wants;
use super::workdir::joined;
use crate::config::ImageConfig;
use crate::context::{git_name, git_source, web_file, Context, Files, MainContext};
use crate::diagnostic::Diagnostic;
use crate::options::Options;
use crate::source::Span;

/// Paths of trees that are read from clients; `/` is all of a tree.
#[derive(Clone, Debug, Default)]
pub(super) struct Used {
    /// Of the build context.
    pub context: BTreeSet<String>,
    /// Of stages, by index: some are directories of the client's.
    pub stages: BTreeMap<usize, BTreeSet<String>>,
}

/// What of a context is read.
#[derive(Clone, Copy)]
pub(super) enum Reads<'a> {
    /// All of it.
    All,
    /// These paths.
    Paths(&'a [String]),
    /// What all instructions together read of this stage.
    OfStage(usize),
}

/// The files of the build context.
pub(super) fn main(build: &mut Build, span: Span) -> Result<OutputRef, Diagnostic> {
    if let Some(known) = build.context {
        return Ok(known);
    }
    let made = make_main(build, span)?;
    build.context = Some(made);
    Ok(made)
}

fn make_main(build: &mut Build, span: Span) -> Result<OutputRef, Diagnostic> {
    let options = build.scene.options;
    match &options.context {
        MainContext::Local => {
            let source = local(options, &options.context_name, options.context_name.clone(), &options.ignore_patterns);
            let about = About::internal("load build context");
            Ok(build.add_reader(Op::Source(source), Vec::new(), None, about, Wants::OfContext))
        }
        MainContext::Input(name) => match input(build, name, span)? {
            Some(output) => Ok(within(build, output)),
            None => Err(Diagnostic::error("invalid-context", span, format!("the context {name} has no files"))),
        },
        remote => {
            let made = remote.vertices(options.checkout(), |op, inputs, name| {
                build.add(op, inputs, None, About { name, ..About::internal("") })
            });
            let made = made.ok_or_else(|| Diagnostic::error("internal", span, "a remote context without vertices"))?;
            Ok(within(build, made))
        }
    }
}

/// The directory of a context that is wanted.
fn within(build: &mut Build, context: OutputRef) -> OutputRef {
    let subdir = &build.scene.options.context_subdir;
    if subdir.is_empty() {
        return context;
    }
    let src = joined("/", subdir);
    let name = format!("copy {src} /");
    let copy = FileCopy { src, dest: "/".into(), dir_copy_contents: true, ..FileCopy::default() };
    let (input, secondary) = (ActionInput::Scratch, ActionInput::Input(0));
    let action = FileAction { input, secondary, output: Some(OutputIndex(0)), kind: FileActionKind::Copy(copy) };
    let op = Op::File(FileOp { actions: vec![action] });
    build.add(op, vec![context], None, About { name, ..About::internal("") })
}

/// A directory of the client's.
fn local(options: &Options, name: &str, hint: String, ignore: &[String]) -> SourceOp {
    let mut attrs = BTreeMap::from([("local.sharedkeyhint".to_string(), hint)]);
    if let Some(session) = options.local_sessions.get(name) {
        attrs.insert("local.session".into(), session.clone());
    }
    if !ignore.is_empty() {
        attrs.insert("local.excludepatterns".into(), json_list(ignore.iter()));
    }
    SourceOp { identifier: format!("local://{name}"), attrs }
}

/// Names what is needed of a directory of the client's; no paths and `/` are all.
pub(super) fn follow(source: &mut SourceOp, paths: &BTreeSet<String>) {
    if !paths.is_empty() && !paths.contains("/") {
        let paths: Vec<String> = paths.iter().map(|path| path.trim_start_matches('/').to_string()).collect();
        source.attrs.insert("local.followpaths".into(), json_list(paths.iter()));
    }
}

/// The files of a named context, as far as they are read.
pub(super) fn files(
    build: &mut Build,
    context: &Context,
    platform: &Platform,
    reads: Reads,
    span: Span,
) -> Result<Option<OutputRef>, Diagnostic> {
    let about = |what: &str| About { name: format!("[context {}] {what}", context.name), ..About::internal("") };
    match &context.files {
        Files::Scratch => Ok(None),
        Files::Image { reference, written } => {
            let name = from::answered(build, reference, platform);
            let op = Op::Source(SourceOp { identifier: format!("docker-image://{name}"), attrs: BTreeMap::new() });
            Ok(Some(build.add(op, Vec::new(), Some(platform.clone()), about(written))))
        }
        Files::OciLayout { store, digest } => {
            let attrs = BTreeMap::from([("oci.store".to_string(), store.clone())]);
            let op = Op::Source(SourceOp { identifier: format!("oci-layout://{store}@{digest}"), attrs });
            Ok(Some(build.add(op, Vec::new(), Some(platform.clone()), about("OCI load from client"))))
        }
        Files::Local(name) => {
            let ignore = build.scene.answers.ignores.get(name).cloned().unwrap_or_default();
            let mut source = local(build.scene.options, name, format!("context:{}", context.name), &ignore);
            let wants = match reads {
                Reads::OfStage(index) => Wants::OfStage(index),
                Reads::All | Reads::Paths(_) => Wants::AsSaid,
            };
            if let Reads::Paths(paths) = reads {
                follow(&mut source, &paths.iter().map(|path| joined("/", path)).collect());
            }
            let about = about("load from client");
            Ok(Some(build.add_reader(Op::Source(source), Vec::new(), None, about, wants)))
        }
        Files::Git(git) => {
            let about = About { name: git_name(git), ..About::internal("") };
            Ok(Some(build.add(Op::Source(git_source(git)), Vec::new(), None, about)))
        }
        Files::Web(url) => Ok(Some(build.add(Op::Source(web_file(url)), Vec::new(), None, about(url)))),
        Files::Input(name) => input(build, name, span).map_err(|error| {
            let message = format!("invalid input {name} for {}", context.name);
            if error.code == "no-input" {
                Diagnostic { message, ..error }
            } else {
                error
            }
        }),
    }
}

/// Takes over the graph of something that came with the build.
fn input(build: &mut Build, name: &str, span: Span) -> Result<Option<OutputRef>, Diagnostic> {
    let Some(input) = build.scene.options.inputs.get(name) else {
        return Err(Diagnostic::error("no-input", span, format!("invalid input {name}")));
    };
    // Vertices are known by the bytes they came as, which need not be those that we write.
    let mut names = BTreeMap::new();
    let renamed = |names: &BTreeMap<VertexId, VertexId>, output: OutputRef| OutputRef {
        vertex: names.get(&output.vertex).copied().unwrap_or(output.vertex),
        ..output
    };
    for vertex in input.graph.vertices() {
        let new = build.add_vertex(NewVertex {
            op: vertex.op.clone(),
            inputs: vertex.inputs.iter().map(|input| renamed(&names, input.from)).collect(),
            platform: vertex.platform.clone(),
            hints: vertex.hints.clone(),
            origin: vertex.origin.clone(),
        });
        names.insert(vertex.id, new);
    }
    Ok(input.graph.targets().first().map(|target| renamed(&names, *target)))
}

/// The configuration that a named context brings along, if it is an image.
pub(super) fn config(
    build: &Build,
    context: &Context,
    platform: &Platform,
    span: Span,
) -> Result<Option<ImageConfig>, Diagnostic> {
    let document = match &context.files {
        Files::Image { reference, .. } => build.scene.answers.images.get(&(reference.clone(), platform.clone())),
        Files::OciLayout { store, digest } => {
            build.scene.answers.images.get(&(format!("{store}@{digest}"), platform.clone()))
        }
        Files::Input(name) => {
            let config = build.scene.options.inputs.get(name).and_then(|input| input.config.as_deref());
            return config.map(|config| read(config, &context.name, span)).transpose();
        }
        _ => return Ok(None),
    };
    let Some(answer) = document else {
        let message = format!("the configuration of context {} for {platform} was not given", context.name);
        return Err(Diagnostic::error("invalid-config", span, message));
    };
    read(&answer.config, &context.name, span).map(Some)
}

fn read(config: &[u8], name: &str, span: Span) -> Result<ImageConfig, Diagnostic> {
    serde_json::from_slice(config).map_err(|error| {
        let message = format!("failed to read the configuration of context {name}: {error}");
        Diagnostic::error("invalid-config", span, message)
    })
}
