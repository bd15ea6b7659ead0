//! `rbuild debug`: what a Dockerfile means to the builder.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use frontend::ast::dump;
use frontend::Source;

use super::args::{self, Debug, LlbFormat};
use super::failure::Failure;
use super::request::reason;
use crate::engine::lower;

/// `rbuild debug`
pub(super) fn debug(what: &Debug, root: &Path) -> Result<u8, Failure> {
    match what {
        Debug::DumpAst { file } => {
            let text = std::fs::read(file).map_err(|e| Failure::user(format!("{}: {}", file.display(), reason(&e))))?;
            let source = Source::new(file.display().to_string(), text);
            let (ast, findings) = frontend::parse(&source);
            print!("{}", dump(&ast));
            super::build::report(&source, &findings)
        }
        Debug::DumpLlb { file, format, target, build_args, context } => {
            let args = typed(file, target, build_args, context)?;
            let (request, directories) = super::request::from_args(&args)?;
            let lowered = super::build::lower(&request, directories, root)?;
            let definition = solver::llb::encode(&lowered.graph);
            let bytes = match format {
                LlbFormat::Protobuf => solver::llb::to_bytes(&definition),
                LlbFormat::Json => serde_json::to_vec_pretty(&solver::llb::json(&definition))?,
                LlbFormat::Dot => lowered.graph.dot().into_bytes(),
            };
            std::io::stdout().write_all(&bytes)?;
            Ok(0)
        }
    }
}
