//! The client of a build that named no session: it has nothing to give.

use crate::engine::{Answer, Client, ClientError, Connection, Directory, LocalDirectory, Secret};
use crate::registry::Credentials;

/// Somebody without a session.
#[derive(Clone, Copy, Debug)]
pub(super) struct Nobody;

impl Client for Nobody {
    fn directory<'a>(&'a self, wanted: &'a LocalDirectory) -> Answer<'a, Directory> {
        Box::pin(async move { Err(ClientError::NoDirectory(wanted.name.clone())) })
    }

    fn secret<'a>(&'a self, _: &'a str) -> Answer<'a, Option<Secret>> {
        Box::pin(async { Ok(None) })
    }

    fn has_agent<'a>(&'a self, _: &'a str) -> Answer<'a, bool> {
        Box::pin(async { Ok(false) })
    }

    fn connect_agent<'a>(&'a self, id: &'a str) -> Answer<'a, Box<dyn Connection>> {
        Box::pin(async move { Err(ClientError::NoAgent(id.to_owned())) })
    }

    fn credentials(&self) -> Credentials {
        Credentials::default()
    }
}
