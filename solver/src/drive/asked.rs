//! The questions that are under way.

use std::collections::HashMap;

use tokio::task::AbortHandle;

use crate::ask::AskCx;
use crate::question::{Class, Question};

/// A question under way. Dropping it gives it up.
pub(super) struct Asked {
    pub number: u64,
    pub at: AskCx,
    pub task: AbortHandle,
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// All of them. How many ask local state is counted along: it is looked at after every answer.
#[derive(Default)]
pub(super) struct AllAsked {
    all: HashMap<Question, Asked>,
    local: usize,
}

impl AllAsked {
    pub fn insert(&mut self, question: Question, asked: Asked) {
        self.local += usize::from(question.class() == Class::Local);
        self.all.insert(question, asked);
    }

    pub fn remove(&mut self, question: &Question) {
        if self.all.remove(question).is_some() {
            self.local -= usize::from(question.class() == Class::Local);
        }
    }

    /// Gives up what nobody wants any more.
    pub fn retain(&mut self, is_wanted: impl Fn(&Question) -> bool) {
        self.all.retain(|question, _| is_wanted(question));
        self.local = self.all.keys().filter(|question| question.class() == Class::Local).count();
    }

    pub fn contains(&self, question: &Question) -> bool {
        self.all.contains_key(question)
    }

    /// Whether a question is still the one that was asked under this number.
    pub fn is_asked_as(&self, question: &Question, number: u64) -> bool {
        self.all.get(question).is_some_and(|asked| asked.number == number)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&Question, &Asked)> {
        self.all.iter()
    }

    /// Whether an answer from local state is to come.
    pub fn waits_for_local_state(&self) -> bool {
        self.local > 0
    }
}
