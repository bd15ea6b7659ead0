//! A Dockerfile as a tree: what was written, before any variable has a value.
//!
//! Two layers. A [`Statement`] is the shape of an instruction: keyword, flags, words. Its [`Kind`] is what it means.
//! Start at [`Ast`].

mod dump;

pub use dump::dump;
pub(crate) use dump::quote;

use std::borrow::Cow;
use std::sync::Arc;

use smol_str::SmolStr;

use crate::diagnostic::Diagnostic;
use crate::source::{Span, Spanned};

/// A parsed file.
#[derive(Clone, Debug, Default)]
pub struct Ast {
    /// What the comments at its top say.
    pub directives: Directives,
    /// Its instructions in order.
    pub instructions: Vec<Arc<Instruction>>,
    /// What was wrong; while there is anything here the file cannot be lowered.
    pub(crate) errors: Vec<Diagnostic>,
}

/// What the comments at the top of a file say to its reader.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Directives {
    /// `# syntax=`: which frontend reads the file.
    pub syntax: Option<Spanned>,
    /// `# check=`: how it is linted.
    pub check: Option<Spanned>,
    /// `# escape=`: what continues a line and takes a character's meaning away.
    pub escape: char,
}

/// An instruction: its shape and its meaning.
#[derive(Clone, Debug)]
pub struct Instruction {
    /// Its shape.
    pub statement: Statement,
    /// Its meaning; `None` if it has none, which was reported.
    pub kind: Option<Kind>,
}

/// The shape of an instruction.
#[derive(Clone, Debug, Default)]
pub struct Statement {
    /// The first word, as written.
    pub keyword: Spanned,
    /// Words beginning with `--` before all others, quotes removed.
    pub flags: Vec<Spanned>,
    /// What follows the flags, as each instruction splits it.
    pub words: Vec<Spanned>,
    /// The words were a JSON array.
    pub json: bool,
    /// What follows the flags, in one piece.
    pub rest: Spanned,
    /// All of it, continued lines joined.
    pub text: SmolStr,
    /// From its first character to the end of its last line, here-documents included.
    pub span: Span,
    /// Here-documents in order of appearance.
    pub heredocs: Vec<Heredoc>,
    /// Comments directly above.
    pub comments: Vec<Spanned>,
    /// What an ONBUILD keeps for later.
    pub trigger: Option<Box<Statement>>,
    /// A blank line was skipped inside.
    pub has_blank: bool,
}

impl Statement {
    /// The first word in upper case.
    pub fn command(&self) -> Cow<'_, str> {
        let keyword = self.keyword.text.as_str();
        let is_upper = keyword.bytes().all(|byte| byte.is_ascii_uppercase());
        if is_upper {
            Cow::Borrowed(keyword)
        } else {
            Cow::Owned(keyword.to_uppercase())
        }
    }
}

/// The statement in which the byte at `at` is.
pub(crate) fn around(instructions: &[Arc<Instruction>], at: usize) -> Option<&Statement> {
    let after = instructions.partition_point(|instruction| instruction.statement.span.start <= at);
    let last = &instructions.get(after.checked_sub(1)?)?.statement;
    (at <= last.span.end).then_some(last)
}

/// A document written below its instruction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Heredoc {
    /// The word that ends it, which is also its file name.
    pub name: String,
    /// Variables in it are replaced.
    pub expand: bool,
    /// Leading tabs are dropped.
    pub chomp: bool,
    /// The number before `<<`.
    pub descriptor: u32,
    /// Where it was opened.
    pub word: Span,
    /// Its lines as written.
    pub content: String,
    /// Where they are.
    pub body: Span,
}

impl Heredoc {
    /// Its content, without leading tabs where these are dropped.
    pub fn document(&self) -> String {
        if !self.chomp {
            return self.content.clone();
        }
        self.content.split_inclusive('\n').map(|line| line.trim_start_matches('\t')).collect()
    }
}

/// What an instruction means.
#[derive(Clone, Debug)]
pub enum Kind {
    /// Begins a stage.
    From(From),
    /// Declares variables of the build.
    Arg(Vec<ArgPair>),
    /// Sets environment variables.
    Env(Vec<Pair>),
    /// Sets labels.
    Label(Vec<Pair>),
    /// Runs a command.
    Run(Run),
    /// Copies files.
    Copy(Box<Copy>),
    /// Copies files, archives and remote content.
    Add(Box<Copy>),
    /// Sets the working directory.
    Workdir(Spanned),
    /// Sets the user.
    User(Spanned),
    /// Sets the signal that stops a container.
    StopSignal(Spanned),
    /// Sets the author.
    Maintainer(Spanned),
    /// Sets the default arguments.
    Cmd(Command),
    /// Sets the default executable.
    Entrypoint(Command),
    /// Sets the shell of shell forms.
    Shell(Vec<Spanned>),
    /// Declares ports.
    Expose(Vec<Spanned>),
    /// Declares volumes.
    Volume(Vec<Spanned>),
    /// Says how a container's health is known.
    Healthcheck(Healthcheck),
    /// Keeps an instruction for builds on top of this image: its text without the first keyword.
    Onbuild(String),
}

/// `FROM base AS name`.
#[derive(Clone, Debug)]
pub struct From {
    /// A stage or image, variables not yet replaced.
    pub base: Spanned,
    /// `--platform`.
    pub platform: Option<Box<Spanned>>,
    /// As written.
    pub name: Option<Spanned>,
    /// The word `AS`.
    pub as_word: Option<Spanned>,
}

/// One variable of an ARG.
#[derive(Clone, Debug)]
pub struct ArgPair {
    /// Its name.
    pub name: Spanned,
    /// Its default, quotes and variables still inside.
    pub value: Option<Spanned>,
}

/// One pair of an ENV or LABEL, quotes and variables still inside.
#[derive(Clone, Debug)]
pub struct Pair {
    /// Left of `=`.
    pub name: Spanned,
    /// Right of `=`.
    pub value: Spanned,
    /// Written as `name value`.
    pub legacy: bool,
}

/// A command line.
#[derive(Clone, Debug)]
pub enum Command {
    /// For a shell.
    Shell(Spanned),
    /// Ready to execute.
    Exec(Vec<Spanned>),
}

/// `RUN`.
#[derive(Clone, Debug)]
pub struct Run {
    /// What to run.
    pub command: Command,
    /// Each `--mount` value.
    pub mounts: Vec<Mount>,
    /// Each `--device` value.
    pub devices: Vec<Device>,
    /// `--network`.
    pub network: RunNetwork,
    /// `--security=insecure`.
    pub insecure: bool,
}

/// `RUN --device`: by its CDI name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Device {
    /// `vendor/class=name`, or one of the forms that mean several.
    pub name: String,
    /// Its absence is an error.
    pub required: bool,
}

/// `RUN --network`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RunNetwork {
    /// The build's.
    #[default]
    Default,
    /// Only a loopback interface.
    None,
    /// The host's.
    Host,
}

/// One `--mount` of a RUN.
#[derive(Clone, Debug)]
pub struct Mount {
    /// The value of the flag.
    pub span: Span,
    /// `key=value` in order; a key alone has no value.
    pub fields: Vec<MountField>,
}

/// One field of a `--mount`.
#[derive(Clone, Debug)]
pub struct MountField {
    /// In lower case.
    pub key: String,
    /// Variables not yet replaced.
    pub value: Option<String>,
}

impl Mount {
    /// What kind it is, as far as no variable says so.
    pub fn kind(&self) -> Option<&str> {
        self.fields.iter().rev().find(|field| field.key == "type").and_then(|field| field.value.as_deref())
    }

    /// The stage, context or image it takes its files from.
    pub fn from(&self) -> Option<&str> {
        self.fields.iter().rev().find(|field| field.key == "from").and_then(|field| field.value.as_deref())
    }

    /// Where its files are shown, as it is written.
    pub fn target(&self) -> Option<&str> {
        let names = ["target", "dst", "destination"];
        let named = self.fields.iter().rev().find(|field| names.contains(&field.key.as_str()));
        named.and_then(|field| field.value.as_deref())
    }
}

/// `COPY` or `ADD`. Few have most of its flags.
#[derive(Clone, Debug)]
pub struct Copy {
    /// Paths, in order.
    pub sources: Vec<Spanned>,
    /// Here-documents, after all paths; indexes of the statement's.
    pub documents: Vec<usize>,
    /// Where to.
    pub dest: Spanned,
    /// `--from`.
    pub from: Option<Box<Spanned>>,
    /// `--chown`.
    pub chown: Option<Box<Spanned>>,
    /// `--chmod`.
    pub chmod: Option<Box<Spanned>>,
    /// `--link`.
    pub link: bool,
    /// `--parents`.
    pub parents: bool,
    /// Each `--exclude`.
    pub excludes: Vec<Spanned>,
    /// `--unpack`.
    pub unpack: Option<bool>,
    /// `--checksum`.
    pub checksum: Option<Box<Spanned>>,
    /// `--keep-git-dir`.
    pub keep_git_dir: Option<bool>,
}

/// `HEALTHCHECK`; durations in nanoseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Healthcheck {
    /// `NONE`, or `CMD` or `CMD-SHELL` and a command.
    pub test: Vec<String>,
    /// `--interval`.
    pub interval: i64,
    /// `--timeout`.
    pub timeout: i64,
    /// `--start-period`.
    pub start_period: i64,
    /// `--start-interval`.
    pub start_interval: i64,
    /// `--retries`.
    pub retries: i64,
}
