//! The sandbox of an engine: started with the first process, once.

use std::sync::{Arc, Mutex, OnceLock};

use super::steps::StepFailure;
use crate::sandbox::Sandbox;

/// A sandbox that is started when somebody needs it.
#[derive(Default)]
pub(crate) struct Started {
    sandbox: OnceLock<Arc<Sandbox>>,
    /// Steps begin at once; starting takes memory and threads.
    starting: Mutex<()>,
}

impl Started {
    pub(crate) fn get(&self) -> Result<Arc<Sandbox>, StepFailure> {
        if let Some(sandbox) = self.sandbox.get() {
            return Ok(Arc::clone(sandbox));
        }
        let _alone = self.starting.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(sandbox) = self.sandbox.get() {
            return Ok(Arc::clone(sandbox));
        }
        let command = String::from("sandbox");
        let started = Sandbox::start().map_err(|source| StepFailure::Start { command, source })?;
        Ok(Arc::clone(self.sandbox.get_or_init(|| Arc::new(started))))
    }
}
