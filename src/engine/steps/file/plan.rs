//! Which actions of a file operation change one tree one after the other.

use solver::graph::op::{ActionInput, ChownOpt, FileAction, FileActionKind, FileOp, UserOpt};

/// Actions that change one tree, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// The tree it starts from; an action here is the last one of another chain.
    pub base: ActionInput,
    /// At least one.
    pub actions: Vec<usize>,
}

/// How a file operation is carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// After those whose results they use. Chains that do not use each other's results may run at once.
    pub chains: Vec<Chain>,
    /// For each output of the vertex, the chain whose result it is.
    pub outputs: Vec<usize>,
}

impl Plan {
    /// The chain whose result is that of an action that others use.
    pub fn chain_of(&self, action: usize) -> Option<usize> {
        self.chains.iter().position(|chain| chain.actions.last() == Some(&action))
    }
}

/// A file operation whose indexes make no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidFileOp {
    /// There is no such input.
    #[error("invalid input index {index}, {provided} provided")]
    NoInput {
        /// As given.
        index: usize,
        /// How many there are.
        provided: usize,
    },
    /// Two actions make the same output.
    #[error("duplicate output {0}")]
    DuplicateOutput(usize),
    /// No action makes an output.
    #[error("no outputs specified")]
    NoOutputs,
    /// Outputs are not numbered from 0 without gaps.
    #[error("missing output index {0}")]
    MissingOutput(usize),
    /// An action uses its own result, or one of a later action.
    #[error("loop from index {0}")]
    Loop(usize),
}

/// Orders the actions of an operation with this many inputs.
///
/// # Errors
/// [`InvalidFileOp`], in the reference's words.
pub fn plan(op: &FileOp, inputs: usize) -> Result<Plan, InvalidFileOp> {
    let mut outputs: Vec<Option<usize>> = Vec::new();
    // Whose result someone needs as it was right after the action.
    let mut ends = vec![false; op.actions.len()];
    let mut bases = vec![0; op.actions.len()];
    for (index, action) in op.actions.iter().enumerate() {
        let uses = [action.input, action.secondary].into_iter().chain(owners(action));
        for (place, used) in uses.enumerate() {
            match used {
                ActionInput::Scratch => {}
                ActionInput::Input(input) if input >= inputs => {
                    return Err(InvalidFileOp::NoInput { index: input, provided: inputs });
                }
                ActionInput::Input(_) => {}
                ActionInput::Action(earlier) if earlier >= index => return Err(InvalidFileOp::Loop(index)),
                ActionInput::Action(earlier) if place == 0 => bases[earlier] += 1,
                ActionInput::Action(earlier) => ends[earlier] = true,
            }
        }
        if let Some(output) = action.output {
            let output = output.0 as usize;
            if output >= op.actions.len() {
                return Err(InvalidFileOp::MissingOutput(outputs.iter().position(Option::is_none).unwrap_or(0)));
            }
            if outputs.len() <= output {
                outputs.resize(output + 1, None);
            }
            if outputs[output].replace(index).is_some() {
                return Err(InvalidFileOp::DuplicateOutput(output));
            }
            ends[index] = true;
        }
    }
    if outputs.is_empty() {
        return Err(InvalidFileOp::NoOutputs);
    }
    let mut chains: Vec<Chain> = Vec::new();
    let mut chain_of: Vec<usize> = Vec::with_capacity(op.actions.len());
    for (index, action) in op.actions.iter().enumerate() {
        match action.input {
            ActionInput::Action(earlier) if !ends[earlier] && bases[earlier] == 1 => {
                let chain = chain_of[earlier];
                chains[chain].actions.push(index);
                chain_of.push(chain);
            }
            base => {
                chain_of.push(chains.len());
                chains.push(Chain { base, actions: vec![index] });
            }
        }
    }
    let chains = in_order(op, chains, &mut chain_of);
    let outputs = outputs
        .into_iter()
        .enumerate()
        .map(|(output, action)| action.map(|action| chain_of[action]).ok_or(InvalidFileOp::MissingOutput(output)))
        .collect::<Result<_, _>>()?;
    Ok(Plan { chains, outputs })
}

/// Sorts chains so that each comes after those it uses: by their last action, which is later than all it uses.
fn in_order(op: &FileOp, mut chains: Vec<Chain>, chain_of: &mut [usize]) -> Vec<Chain> {
    chains.sort_by_key(|chain| chain.actions.last().copied());
    for (at, chain) in chains.iter().enumerate() {
        for action in &chain.actions {
            chain_of[*action] = at;
        }
    }
    debug_assert_eq!(chains.iter().map(|chain| chain.actions.len()).sum::<usize>(), op.actions.len());
    chains
}

/// The trees in which an action looks names up.
fn owners(action: &FileAction) -> Vec<ActionInput> {
    let owner = match &action.kind {
        FileActionKind::Copy(copy) => &copy.owner,
        FileActionKind::MkFile { owner, .. }
        | FileActionKind::MkDir { owner, .. }
        | FileActionKind::Symlink { owner, .. } => owner,
        FileActionKind::Rm { .. } => &None,
    };
    let Some(ChownOpt { user, group }) = owner else { return Vec::new() };
    let names = [user, group].into_iter().flatten();
    names
        .filter_map(|option| match option {
            UserOpt::Name { input, .. } => Some(*input),
            UserOpt::Id(_) => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use solver::graph::OutputIndex;

    use super::*;
    use ActionInput::{Action, Input, Scratch};

    fn rm(input: ActionInput, output: Option<u32>) -> FileAction {
        let kind = FileActionKind::Rm { path: "/x".into(), allow_not_found: false, allow_wildcard: false };
        FileAction { input, secondary: Scratch, output: output.map(OutputIndex), kind }
    }

    fn copy(input: ActionInput, secondary: ActionInput, output: Option<u32>) -> FileAction {
        let kind = FileActionKind::Copy(solver::graph::op::FileCopy::default());
        FileAction { input, secondary, output: output.map(OutputIndex), kind }
    }

    fn planned(inputs: usize, actions: &[FileAction]) -> Result<Plan, InvalidFileOp> {
        plan(&FileOp { actions: actions.to_vec() }, inputs)
    }

    #[test]
    fn actions_on_one_base_are_one_chain() {
        let plan = planned(2, &[rm(Input(0), None), copy(Action(0), Input(1), None), rm(Action(1), Some(0))]).unwrap();
        assert_eq!(plan.chains, [Chain { base: Input(0), actions: vec![0, 1, 2] }]);
        assert_eq!(plan.outputs, [0]);
    }

    #[test]
    fn a_result_that_others_read_ends_its_chain() {
        let actions = [rm(Scratch, None), rm(Action(0), None), copy(Action(1), Action(0), Some(0))];
        let plan = planned(0, &actions).unwrap();
        let chains = [Chain { base: Scratch, actions: vec![0] }, Chain { base: Action(0), actions: vec![1, 2] }];
        assert_eq!(plan.chains, chains);
        assert_eq!((plan.outputs.as_slice(), plan.chain_of(0)), ([1].as_slice(), Some(0)));
    }

    #[test]
    fn two_actions_on_one_result_are_two_chains() {
        let plan = planned(1, &[rm(Input(0), None), rm(Action(0), Some(1)), rm(Action(0), Some(0))]).unwrap();
        assert_eq!(plan.chains.iter().map(|chain| chain.actions.clone()).collect::<Vec<_>>(), [[0], [1], [2]]);
        assert_eq!(plan.outputs, [2, 1]);
    }

    #[test]
    fn a_chain_comes_after_all_it_uses() {
        let actions =
            [rm(Input(0), None), rm(Input(1), None), rm(Action(1), None), copy(Action(0), Action(2), Some(0))];
        let plan = planned(2, &actions).unwrap();
        assert_eq!(plan.chains.iter().map(|chain| chain.actions.clone()).collect::<Vec<_>>(), [[1, 2], [0, 3]]);
        assert_eq!(plan.outputs, [1]);
    }

    #[test]
    fn names_are_looked_up_in_results_too() {
        let named = UserOpt::Name { name: "me".into(), input: Action(0) };
        let kind = FileActionKind::MkDir {
            path: "/d".into(),
            mode: 0o755,
            make_parents: false,
            owner: Some(ChownOpt { user: Some(named), group: None }),
            timestamp: None,
        };
        let mkdir = FileAction { input: Action(0), secondary: Scratch, output: Some(OutputIndex(0)), kind };
        let plan = planned(1, &[rm(Input(0), None), mkdir]).unwrap();
        assert_eq!(plan.chains.len(), 2);
    }

    #[test]
    fn indexes_that_make_no_sense_are_refused() {
        let cases = [
            (vec![rm(Input(1), Some(0))], InvalidFileOp::NoInput { index: 1, provided: 1 }),
            (vec![rm(Input(0), Some(0)), rm(Input(0), Some(0))], InvalidFileOp::DuplicateOutput(0)),
            (vec![rm(Input(0), None)], InvalidFileOp::NoOutputs),
            (vec![rm(Input(0), Some(1)), rm(Input(0), None)], InvalidFileOp::MissingOutput(0)),
            (vec![rm(Input(0), Some(u32::MAX))], InvalidFileOp::MissingOutput(0)),
            (vec![rm(Action(0), Some(0))], InvalidFileOp::Loop(0)),
            (vec![copy(Input(0), Action(7), Some(0))], InvalidFileOp::Loop(0)),
        ];
        for (actions, error) in cases {
            assert_eq!(planned(1, &actions).unwrap_err(), error);
        }
    }
}
