//! Whether the client of a session still lives.

use std::time::Duration;

use tokio::time::{sleep, timeout, Instant};
use tonic::transport::Channel;
use tonic::Status;

use crate::wire::proto::health::health_client::HealthClient;
use crate::wire::proto::health::{health_check_response::ServingStatus, HealthCheckRequest};

/// How often the client is asked, and how long it may be silent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pulse {
    /// Between an answer and the next question.
    pub every: Duration,
    /// For an answer; one and a half times the last one's duration if that is longer.
    pub patience: Duration,
    /// How many failures in a row are too many.
    pub failures: u32,
}

/// Why a client counts as gone.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Lost {
    /// It did not answer.
    #[error("the client did not answer for {0:?}")]
    Silent(Duration),
    /// Its answer was an error.
    #[error("the client's health check failed")]
    Failed(#[source] Box<Status>),
    /// It says itself that it does not serve.
    #[error("the client says it is not serving")]
    NotServing,
}

impl Default for Pulse {
    fn default() -> Pulse {
        Pulse { every: Duration::from_secs(5), patience: Duration::from_secs(15), failures: 2 }
    }
}

impl Pulse {
    /// What a client asked for in its headers; a second at least.
    pub fn of(asked: Option<Duration>) -> Pulse {
        match asked {
            Some(asked) => {
                let span = asked.max(Duration::from_secs(1));
                Pulse { every: span, patience: span, failures: 1 }
            }
            None => Pulse::default(),
        }
    }

    /// Asks until the client is lost.
    pub async fn until_lost(self, channel: Channel) -> Lost {
        let mut client = HealthClient::new(channel);
        let (mut failed, mut last) = (0, Duration::ZERO);
        loop {
            sleep(self.every).await;
            let patience = self.patience.max(last.saturating_mul(3) / 2);
            let asked = Instant::now();
            let answer = timeout(patience, client.check(HealthCheckRequest::default())).await;
            last = asked.elapsed();
            let lost = match answer {
                Ok(Ok(answer)) if answer.get_ref().status() == ServingStatus::Serving => {
                    failed = 0;
                    continue;
                }
                Ok(Ok(_)) => Lost::NotServing,
                Ok(Err(status)) => Lost::Failed(Box::new(status)),
                Err(_) => Lost::Silent(patience),
            };
            failed += 1;
            if failed >= self.failures {
                return lost;
            }
        }
    }
}
