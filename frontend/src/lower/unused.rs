//! Build arguments that nobody takes, and stages that are not there: most often names that are typed wrongly.

use crate::ast::{Ast, Kind};
use crate::diagnostic::nearest;
use crate::options::Options;
use crate::stages::Stages;

/// Arguments of which it is known without a declaration what they are for.
const PREDEFINED: [&str; 5] = ["HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY"];

/// Build arguments that no ARG of the file declares.
pub(super) fn suspects<'a>(ast: &Ast, options: &'a Options) -> Vec<&'a str> {
    let automatic = options.automatic(None);
    let is_known = |name: &str| {
        name == super::epoch::NAME
            || name.starts_with("BUILDKIT_")
            || PREDEFINED.contains(&name.to_ascii_uppercase().as_str())
            || automatic.iter().any(|(own, _)| own == name)
    };
    let given = options.build_args.keys().map(String::as_str).filter(|name| !is_known(name));
    given.filter(|name| !declared(ast).any(|own| own == *name)).collect()
}

/// What to say of suspects that no trigger of a base declares either.
pub(super) fn sentences(ast: &Ast, stages: &Stages, suspects: &[&str]) -> Vec<String> {
    let triggers = stages.all.iter().flat_map(|stage| &stage.commands).filter(|command| command.trigger.is_some());
    let inherited: Vec<&str> = triggers.flat_map(|command| names(command.instruction.kind.as_ref())).collect();
    let unused = suspects.iter().filter(|name| !inherited.contains(*name));
    let sentence = |name: &&str| {
        let near = nearest(name, declared(ast)).map(|near| format!(" (did you mean {near}?)")).unwrap_or_default();
        format!("build argument {name} is not used: no ARG declares it{near}")
    };
    unused.map(sentence).collect()
}

/// What to say of stages that are to be built without cache, and are not there.
pub(super) fn stages(ast: &Ast, options: &Options) -> Vec<String> {
    let named = || {
        let froms = ast.instructions.iter().filter_map(|instruction| match &instruction.kind {
            Some(Kind::From(from)) => from.name.as_ref(),
            _ => None,
        });
        froms.map(|name| name.text.as_str())
    };
    // Scripts whose variable is not set give an empty one.
    let wanted = options.no_cache_filter.iter().filter(|wanted| !wanted.is_empty());
    let missing = wanted.filter(|wanted| !named().any(|name| name.eq_ignore_ascii_case(wanted)));
    let sentence = |wanted: &String| {
        let near = nearest(wanted, named()).map(|near| format!(" (did you mean {near}?)")).unwrap_or_default();
        format!("no stage is called {wanted}: nothing is built anew because of that --no-cache-filter{near}")
    };
    missing.map(sentence).collect()
}

fn declared(ast: &Ast) -> impl Iterator<Item = &str> {
    ast.instructions.iter().flat_map(|instruction| names(instruction.kind.as_ref()))
}

/// What an instruction declares.
fn names(kind: Option<&Kind>) -> impl Iterator<Item = &str> {
    let pairs = match kind {
        Some(Kind::Arg(pairs)) => &pairs[..],
        _ => &[],
    };
    pairs.iter().map(|pair| pair.name.text.as_str())
}
