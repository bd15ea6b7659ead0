//! What must hold of any text, whoever made it: the fuzzer looks for texts of which it does not.
//!
//! Each oracle takes bytes and panics where a law is broken. `frontend/fuzz` runs them on what it thinks up, and
//! `tests/fuzzed.rs` on what it found earlier.

// Each user needs some of them only.
#![allow(dead_code)]

pub mod array;
pub mod file;
pub mod growth;
pub mod ignore;
mod print;
mod second;
pub mod word;

use frontend::{subrequest, Lowered, Lowering, Query, Request, Step, SubStep};

/// The configuration of every base image. Those that the name says it of have triggers.
fn answer(query: &Query, lowering: &mut Lowering) {
    match query {
        Query::Image(query) => {
            let triggers =
                r#"["ARG t=1", "COPY --chown=$t <<E a* /$t/\nx $t\nE", "RUN --mount=type=cache,target=$t x"]"#;
            let triggers = if query.reference.contains("onbuild") { triggers } else { "null" };
            let config = format!(
                r#"{{"architecture":"amd64","os":"linux","config":{{"Env":["PATH=/bin","base=1"],"OnBuild":{triggers}}},
                    "rootfs":{{"type":"layers","diff_ids":["sha256:0"]}}}}"#
            );
            lowering.answer(query, frontend::ImageAnswer { config: config.into_bytes(), digest: None });
        }
        Query::Ignore(query) => lowering.answer_ignore(query, vec!["*.md".into()]),
        Query::Time(query) => lowering.answer_time(query, Some(1_700_000_000)),
    }
}

/// Lowers as far as it goes.
fn lowered(lowering: &mut Lowering) -> Result<Lowered, Vec<frontend::Diagnostic>> {
    // Each round must learn something, so there cannot be more of them than there are names in a file.
    for _ in 0..10_000 {
        match lowering.step()? {
            Step::Done(lowered) => return Ok(lowered),
            Step::Need(queries) => {
                assert!(!queries.is_empty(), "asks for nothing");
                queries.iter().for_each(|query| answer(query, lowering));
            }
        }
    }
    panic!("asks for ever");
}

/// Answers what can be asked without building.
fn asked(request: Request, lowering: &mut Lowering) {
    for _ in 0..10_000 {
        match subrequest(request, lowering) {
            Ok(SubStep::Need(queries)) => queries.iter().for_each(|query| answer(query, lowering)),
            Ok(SubStep::Done(_)) | Err(_) => return,
        }
    }
    panic!("asks for ever");
}
