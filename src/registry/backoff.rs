//! When a failed request is made again.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use super::config::Limits;
use super::error::{Error, Result};

/// A try that moved this many bytes does not count: the link is bad, but it works.
const WORTH_IT: u64 = 8 << 20;

/// The tries of one request.
#[derive(Debug)]
pub(super) struct Backoff<'a> {
    limits: &'a Limits,
    tries_left: u32,
    wait: Duration,
}

impl<'a> Backoff<'a> {
    /// As many tries as the limits allow.
    pub fn new(limits: &'a Limits) -> Backoff<'a> {
        Backoff { limits, tries_left: limits.tries.saturating_sub(1), wait: limits.first_wait }
    }

    /// A single try: somebody else can be asked.
    pub fn none(limits: &'a Limits) -> Backoff<'a> {
        Backoff { limits, tries_left: 0, wait: limits.first_wait }
    }

    /// Notes what the failed try had brought.
    pub fn moved(&mut self, bytes: u64) {
        if bytes >= WORTH_IT {
            *self = Backoff::new(self.limits);
        }
    }

    /// Waits until the next try.
    ///
    /// # Errors
    /// The error itself, when trying again is no use or was done often enough.
    pub async fn after(&mut self, error: Error) -> Result<()> {
        if self.tries_left == 0 || !error.is_transient() {
            return Err(error);
        }
        let wait = match error.retry_after() {
            Some(asked) if asked > self.limits.longest_wait => return Err(error),
            Some(asked) => asked,
            None => jittered(self.wait.min(self.limits.longest_wait)),
        };
        self.tries_left -= 1;
        self.wait = self.wait.saturating_mul(2);
        tokio::time::sleep(wait).await;
        Ok(())
    }
}

/// Give or take a quarter, so that parallel transfers that failed together do not come back together.
fn jittered(wait: Duration) -> Duration {
    let random = RandomState::new().hash_one(0_u8) % 512;
    wait.mul_f64(0.75 + random as f64 / 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(status: u16, retry_after: Option<Duration>) -> Error {
        Error::Status { request: String::new(), status, said: String::new(), retry_after }
    }

    async fn waits(error: impl Fn() -> Error) -> Vec<Duration> {
        let limits = Limits::default();
        let mut backoff = Backoff::new(&limits);
        let mut waits = Vec::new();
        loop {
            let before = tokio::time::Instant::now();
            if backoff.after(error()).await.is_err() {
                return waits;
            }
            waits.push(before.elapsed());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn waits_double_within_a_quarter() {
        let waits = waits(|| status(503, None)).await;
        assert_eq!(waits.len(), 4);
        for (at, wait) in waits.iter().enumerate() {
            let nominal = f64::from(1 << at);
            assert!((0.74 * nominal..1.26 * nominal).contains(&wait.as_secs_f64()), "{waits:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn registry_decides_how_long() {
        let seven = Duration::from_secs(7);
        let waits_of_seven = waits(|| status(429, Some(seven))).await;
        assert!(waits_of_seven.len() == 4 && waits_of_seven.iter().all(|wait| wait.as_secs() == 7));
        assert!(waits(|| status(429, Some(Duration::from_secs(3600)))).await.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn what_will_not_change_is_not_tried_again() {
        for code in [400, 401, 403, 404, 405, 416, 501] {
            assert!(waits(|| status(code, None)).await.is_empty(), "{code}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn tries_that_moved_much_do_not_count() {
        let limits = Limits { tries: 2, ..Limits::default() };
        let mut backoff = Backoff::new(&limits);
        for _ in 0..10 {
            backoff.moved(WORTH_IT);
            assert!(backoff.after(status(503, None)).await.is_ok());
        }
        backoff.moved(WORTH_IT - 1);
        assert!(backoff.after(status(503, None)).await.is_err());
    }
}
