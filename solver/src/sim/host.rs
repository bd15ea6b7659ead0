//! The simulated world behind the real driver, with answers that take random time.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::time::sleep;

use super::drive::{drive, Weather};
use super::world::World;
use crate::dice::Dice;
use crate::graph::{OutputIndex, Selector, Vertex};
use crate::key::{CacheKey, ContentDigest, DefinitionKey, RecordId, ResultRef};
use crate::port::{AskCx, Host, Missed, Pin, Ran, Record, RunOrder, StepError};
use crate::question::{Answer, SubmitNumber};
use crate::submit::Submit;

pub(super) struct SimHost {
    world: Mutex<World>,
    dice: Mutex<Dice>,
    /// One run in this many fails; 0 is never.
    pub fail_one_in: usize,
}

impl SimHost {
    pub fn new(world: World, dice: Dice, fail_one_in: usize) -> SimHost {
        SimHost { world: Mutex::new(world), dice: Mutex::new(dice), fail_one_in }
    }

    pub fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }

    /// Another process builds this on the same store.
    pub fn build_elsewhere(&self, submit: Submit) {
        let mut dice = self.dice.lock().unwrap();
        drive(vec![submit], &mut self.world.lock().unwrap(), &mut dice, Weather::default());
    }

    async fn wait(&self, at_most: usize) {
        let time = self.dice.lock().unwrap().below(at_most);
        if time > 0 {
            sleep(Duration::from_millis(time as u64)).await;
        }
    }
}

impl Host for SimHost {
    async fn pin(&self, _: &AskCx, vertex: &Vertex) -> Result<Pin, StepError> {
        self.wait(5).await;
        match self.world().pin(vertex) {
            Answer::Found(record) => Ok(Pin { record }),
            other => unreachable!("{other:?}"),
        }
    }

    async fn seen(&self, key: DefinitionKey) -> Result<bool, StepError> {
        Ok(self.world().seen.contains(&key))
    }

    async fn mark_seen(&self, keys: Vec<DefinitionKey>) {
        self.world().seen.extend(keys);
    }

    async fn look_up(&self, key: CacheKey) -> Result<Option<Record>, StepError> {
        self.wait(3).await;
        let world = self.world();
        Ok(world.look_up(key, &Default::default()).map(|id| world.record(id)))
    }

    async fn recall(
        &self,
        record: RecordId,
        output: OutputIndex,
        what: &Selector,
    ) -> Result<Option<ContentDigest>, StepError> {
        Ok(match self.world().recall(ResultRef { record, output }, &Arc::new(what.clone())) {
            Answer::Digest(digest) => Some(digest),
            _ => None,
        })
    }

    async fn hash(&self, _: &AskCx, result: &ResultRef, what: &Selector) -> Result<ContentDigest, StepError> {
        self.wait(2).await;
        match self.world().hash(*result, &Arc::new(what.clone())) {
            Answer::Digest(digest) => Ok(digest),
            other => unreachable!("{other:?}"),
        }
    }

    async fn fetch(&self, _: &AskCx, record: RecordId) -> Result<(), StepError> {
        self.wait(9).await;
        if self.world().fetch(record) {
            return Ok(());
        }
        Err(StepError::new("gone"))
    }

    async fn run(&self, at: &AskCx, order: RunOrder<'_>) -> Result<Ran, StepError> {
        at.log(1, b"begin");
        if self.dice.lock().unwrap().one_in(4) {
            at.caller();
        }
        self.wait(20).await;
        let mut world = self.world();
        let usable = |id: &RecordId| world.held.contains(id) && !order.lost.contains(id) && !order.anew;
        if let Some(id) = world.pointers.get(&order.key).copied().filter(usable) {
            return Ok(Ran::Found(world.record(id)));
        }
        if self.fail_one_in > 0 && self.dice.lock().unwrap().one_in(self.fail_one_in) {
            return Err(StepError::new("bad luck"));
        }
        match world.run(order.vertex, order.key, order.inputs.to_vec(), SubmitNumber(0)) {
            Answer::Ran { record, new, .. } => Ok(Ran::Made { record, new }),
            other => unreachable!("{other:?}"),
        }
    }

    async fn explain(&self, _: Missed<'_>) -> Vec<String> {
        Vec::new()
    }
}
