//! What the solver can ask of the world, and what it was told.

use std::collections::HashMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::event::BuildId;
use crate::graph::{OutputIndex, Selector, VertexId};
use crate::key::{CacheKey, ContentDigest, DefinitionKey, RecordId, ResultRef};

/// Numbers the graphs submitted to one solver, in order. One build may submit several.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SubmitNumber(pub u64);

/// What the solver knows of a kept result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Its name.
    pub id: RecordId,
    /// The identity digest of each output.
    pub identities: Vec<ContentDigest>,
}

impl Record {
    /// One of its outputs.
    pub fn output(&self, output: OutputIndex) -> ResultRef {
        ResultRef { record: self.id, output }
    }
}

/// One thing the solver wants to know or to have done. The same question has the same answer for whoever asks.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Question {
    /// What does this source resolve to? All submits of one build see the same.
    Pin(BuildId, VertexId),
    /// Was a step of this definition ever built or found here?
    Seen(DefinitionKey),
    /// What digest of these files is known from an earlier look at the record?
    Recall(ResultRef, Arc<Selector>),
    /// Is there a result under this key?
    LookUp(CacheKey),
    /// What is the digest of these files? Their record is fetched.
    Hash(ResultRef, Arc<Selector>),
    /// Make the files of this record available.
    Fetch(RecordId),
    /// Run the step of this key on inputs that are available.
    ///
    /// A submit that wants no cached result may take what another one runs, but only if that run began after it was
    /// submitted. Otherwise it asks again, with its number.
    Run(CacheKey, Option<SubmitNumber>),
}

/// What a question takes of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Next to nothing; never waits.
    Local,
    /// A connection.
    Transfer,
    /// A core and the disk.
    Hash,
    /// Whatever the step takes.
    Run,
}

impl Question {
    /// What it takes of the machine.
    pub fn class(&self) -> Class {
        match self {
            Question::Seen(_) | Question::Recall(..) | Question::LookUp(_) => Class::Local,
            Question::Pin(..) | Question::Fetch(_) => Class::Transfer,
            Question::Hash(..) => Class::Hash,
            Question::Run(..) => Class::Run,
        }
    }
}

/// What the solver was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// To `Pin`, and to `LookUp` when there is one.
    Found(Record),
    /// To `LookUp`.
    Missing,
    /// To `Seen`.
    Seen(bool),
    /// To `Recall` and `Hash`.
    Digest(ContentDigest),
    /// To `Recall`.
    NotMeasured,
    /// To `Fetch`: the files are here.
    Here,
    /// To `Run`.
    Ran {
        /// The result.
        record: Record,
        /// No result with these identities was known before.
        new: bool,
        /// The newest submit when the run began.
        began: SubmitNumber,
    },
    /// It went wrong; why is not the solver's business.
    Failed,
}

/// All answers so far.
#[derive(Clone, Debug, Default)]
pub struct Answers(HashMap<Question, Answer>);

impl Answers {
    /// The answer to a question, if there is one.
    pub fn get(&self, question: &Question) -> Option<&Answer> {
        self.0.get(question)
    }

    /// Whether a question was answered.
    pub fn knows(&self, question: &Question) -> bool {
        self.0.contains_key(question)
    }

    /// Keeps an answer; a newer one replaces the older.
    pub fn insert(&mut self, question: Question, answer: Answer) {
        self.0.insert(question, answer);
    }

    /// Forgets all answers that `keep` does not want.
    pub fn retain(&mut self, mut keep: impl FnMut(&Question, &Answer) -> bool) {
        self.0.retain(|question, answer| keep(question, answer));
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
