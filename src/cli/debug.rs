//! `rbuild debug`: what a Dockerfile means to the builder.

use std::io::Write;
use std::path::Path;

use frontend::{dump, Source};
use solver::graph::OutputRef;

use super::args::{self, Debug, LlbFormat};
use super::failure::Failure;
use super::request::reason;

/// `rbuild debug`
pub(super) fn debug(what: &Debug, root: &Path) -> Result<u8, Failure> {
    match what {
        Debug::DumpAst { file } => {
            let text = std::fs::read(file).map_err(|e| Failure::user(format!("{}: {}", file.display(), reason(&e))))?;
            let source = Source::new(file.display().to_string(), text);
            let (ast, findings) = frontend::parse(&source);
            say!("{}", dump(&ast).trim_end_matches('\n'));
            match findings.iter().any(|finding| finding.is_error()) {
                true => Err(super::build::wrong_dockerfile(&source, &findings)),
                false => Ok(0),
            }
        }
        Debug::DumpLlb { file, format, target, build_args, build_contexts, platforms, context } => {
            let args = args::Build::of_dump(
                context.clone(),
                file.clone(),
                target.clone(),
                build_args.clone(),
                build_contexts.clone(),
                platforms.clone(),
            );
            let lowered = super::build::lower(&args, root)?;
            let target: Option<OutputRef> = lowered.targets.first().and_then(|target| target.output);
            let bytes = match (format, target) {
                (LlbFormat::Dot, _) => lowered.graph.dot().into_bytes(),
                // An empty tree is an empty definition.
                (_, None) => Vec::new(),
                (LlbFormat::Protobuf, Some(target)) => {
                    prost::Message::encode_to_vec(&solver::llb::encode(&lowered.graph, target))
                }
                (LlbFormat::Json, Some(target)) => {
                    serde_json::to_vec_pretty(&solver::llb::json(&solver::llb::encode(&lowered.graph, target)))?
                }
            };
            std::io::stdout().write_all(&bytes)?;
            Ok(0)
        }
    }
}
