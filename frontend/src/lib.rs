//! Compiles the text of a Dockerfile into rbuild's build graph.
//!
//! Pure: no IO, no clock, no environment. Text becomes a tree ([`parse`]), the tree becomes a graph ([`Lowering`]);
//! what must be known about base images in between is asked for, and answered by whoever can.
//!
//! - [`Source`]: text and places in it. [`diagnostic`]: what is wrong, and where.
//! - [`parse`]: text to [`ast`]; never fails.
//! - [`Lowering`]: tree to graph, stage by stage; [`expand`] gives words their values.
//! - [`config`]: the image's configuration, which instructions change beside the graph.
//! - [`dockerignore`], [`normalise_reference`], [`parse_platform`]: small languages of their own.
//!
//! Words: *instruction* (a line and its continuations), *stage* (a FROM and what follows), *trigger* (an instruction
//! that a base image kept for its children), *global* (a variable before the first FROM).

pub mod ast;
pub mod config;
mod context;
pub mod diagnostic;
mod effort;
pub mod excerpt;
pub mod expand;
mod git_ref;
mod ignore;
mod lint;
mod lower;
mod options;
mod parser;
mod platform;
mod reference;
mod source;
mod stages;
mod subrequest;
mod variables;

pub use ast::{dump, Ast};
pub use config::ImageConfig;
pub use context::{context_name, ContextInput, MainContext};
pub use diagnostic::{Diagnostic, Severity};
pub use git_ref::{GitRef, GitRefError};
pub use ignore::{dockerignore, IgnoreError};
pub use lint::{rule, Rule, RULES};
pub use lower::{IgnoreQuery, ImageAnswer, ImagePlace, ImageQuery, Lowered, Lowering, Query, Step, Target, TimeQuery};
pub use options::{Options, RunNetwork};
pub use parser::parse;
pub use platform::{parse_platform, PlatformError};
pub use reference::{normalise_reference, ReferenceError};
pub use source::{Source, Span, Spanned};
pub use subrequest::{check_without, subrequest, Request, SubResult, SubStep};
