//! Which of the wanted questions begin now: the longest remaining path first, within the machine's budget.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use crate::question::{Class, Question};

/// How many questions of a class may be in work at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Pins and fetches.
    pub transfers: usize,
    /// Hashes.
    pub hashes: usize,
    /// Runs.
    pub runs: usize,
}

impl Budget {
    /// What suits a machine with this many cores: steps mostly wait for network and disk.
    pub fn for_cores(cores: usize) -> Budget {
        Budget { transfers: 16, hashes: cores.max(1), runs: (4 * cores).max(16) }
    }

    /// With less nothing would ever be done.
    pub(crate) fn at_least_one(self) -> Budget {
        Budget { transfers: self.transfers.max(1), hashes: self.hashes.max(1), runs: self.runs.max(1) }
    }

    /// `None` is without limit.
    fn of(&self, class: Class) -> Option<usize> {
        match class {
            Class::Local => None,
            Class::Transfer => Some(self.transfers),
            Class::Hash => Some(self.hashes),
            Class::Run => Some(self.runs),
        }
    }
}

/// The questions of `wanted` that may begin beside those in `running`.
///
/// `remaining` is the cost of the longest way from a question to the end of a build that waits for it. Equal ones begin
/// in the order of the questions, so that the same state always gives the same answer.
pub fn admit(
    wanted: impl IntoIterator<Item = Question>,
    running: impl IntoIterator<Item = Class>,
    budget: &Budget,
    remaining: impl Fn(&Question) -> u64,
) -> Vec<Question> {
    let mut taken = [0; 4];
    for class in running {
        taken[class as usize] += 1;
    }
    let mut waiting: Vec<(Reverse<u64>, Question)> =
        wanted.into_iter().collect::<BTreeSet<_>>().into_iter().map(|q| (Reverse(remaining(&q)), q)).collect();
    waiting.sort_by_key(|(remaining, _)| *remaining);
    waiting.retain(|(_, question)| {
        let class = question.class();
        let fits = budget.of(class).is_none_or(|most| taken[class as usize] < most);
        taken[class as usize] += usize::from(fits);
        fits
    });
    waiting.into_iter().map(|(_, question)| question).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::{CacheKey, DefinitionKey, RecordId};

    const BUDGET: Budget = Budget { transfers: 1, hashes: 1, runs: 2 };

    fn run(n: u8) -> Question {
        Question::Run(CacheKey([n; 32]), None)
    }

    fn remaining(question: &Question) -> u64 {
        match question {
            Question::Run(key, _) => u64::from(key.0[0]),
            _ => 0,
        }
    }

    #[test]
    fn longest_remaining_path_begins_first() {
        assert_eq!(admit([run(1), run(3), run(2)], [], &BUDGET, remaining), [run(3), run(2)]);
        assert_eq!(admit([run(1), run(3), run(2)], [], &BUDGET, |_| 7), [run(1), run(2)]);
    }

    #[test]
    fn classes_do_not_take_slots_from_each_other() {
        let fetch = |n| Question::Fetch(RecordId([n; 16]));
        let busy = [Class::Run, Class::Hash, Class::Hash];
        assert_eq!(admit([fetch(1), fetch(2), run(1), run(2)], busy, &BUDGET, remaining), [run(2), fetch(1)]);
        assert_eq!(admit([run(1)], [Class::Run, Class::Run], &BUDGET, remaining), []);
    }

    #[test]
    fn what_is_known_at_once_never_waits() {
        let seen: Vec<_> = (0..9).map(|n| Question::Seen(DefinitionKey([n; 32]))).collect();
        let none = Budget { transfers: 0, hashes: 0, runs: 0 };
        assert_eq!(admit(seen.clone(), [Class::Local; 99], &none, remaining), seen);
    }

    #[test]
    fn a_question_wanted_twice_takes_one_slot() {
        assert_eq!(admit([run(1), run(1), run(2)], [], &BUDGET, remaining), [run(2), run(1)]);
    }
}
