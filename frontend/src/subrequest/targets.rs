//! Which targets there are.

use serde::Serialize;

use super::outline::description;
use super::place::{data, Location};
use super::table::table;
use super::{fine, SubResult};
use crate::ast::Kind;
use crate::diagnostic::Diagnostic;
use crate::lower::Lowering;

#[derive(Serialize)]
struct Targets {
    targets: Vec<Target>,
    sources: [String; 1],
}

#[derive(Serialize)]
struct Target {
    #[serde(skip_serializing_if = "String::is_empty")]
    name: String,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    default: bool,
    #[serde(skip_serializing_if = "String::is_empty")]
    description: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    base: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    platform: String,
    location: Location,
}

/// Lists the stages, as they are written.
pub(super) fn targets(lowering: &Lowering) -> Result<SubResult, Vec<Diagnostic>> {
    let (source, ast) = (lowering.source(), lowering.ast());
    if !ast.errors.is_empty() {
        return Err(ast.errors.clone());
    }
    let mut targets: Vec<Target> = Vec::new();
    for instruction in &ast.instructions {
        let Some(Kind::From(from)) = &instruction.kind else { continue };
        let name = from.name.as_ref().map(|name| name.text.to_lowercase()).unwrap_or_default();
        targets.push(Target {
            default: false,
            description: description(&instruction.statement, &name),
            base: from.base.text.to_string(),
            platform: from.platform.as_ref().map(|platform| platform.text.to_string()).unwrap_or_default(),
            location: Location::of(source, instruction.statement.span),
            name,
        });
    }
    if let Some(last) = targets.last_mut() {
        last.default = true;
    }
    let mut rows = vec![vec!["TARGET".to_string(), "DESCRIPTION".into()]];
    for target in &targets {
        let name = if target.default { format!("{} (default)", target.name) } else { target.name.clone() };
        rows.push(vec![name.trim_start().to_string(), target.description.clone()]);
    }
    Ok(fine(&Targets { targets, sources: [data(source)] }, table(&rows, 1)))
}
