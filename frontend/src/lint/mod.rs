//! Things that work but are doubtful: one function per rule, named by the rule.

use crate::ast::Instruction;
use crate::diagnostic::Diagnostic;

/// Rules about what is written, before any variable has a value.
pub(crate) fn written(_instructions: &[Instruction], _warnings: &mut Vec<Diagnostic>) {}
