//! What the metadata of a `Control.Session` call say.

use std::collections::BTreeSet;
use std::time::Duration;

use tonic::metadata::{AsciiMetadataValue, MetadataMap};

const ID: &str = "x-docker-expose-session-uuid";
const NAME: &str = "x-docker-expose-session-name";
const SHARED_KEY: &str = "x-docker-expose-session-sharedkey";
const METHOD: &str = "x-docker-expose-session-grpc-method";
const HEALTH_TIMEOUT: &str = "x-buildkit-session-health-custom-timeout";

/// Who a session is and what it serves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers {
    /// Chosen by the client, and what its requests name the session by. It is a key and no part of any path.
    pub id: String,
    /// For people. Clients of today leave it empty.
    pub name: String,
    /// Stays the same for one directory of one client: what was sent before may be used again.
    pub shared_key: String,
    /// How long the client may be silent, where it says so itself.
    pub health_timeout: Option<Duration>,
    /// What the client serves, each as `/package.Service/Method`, as it wrote it. Ask [`serves`](Headers::serves).
    pub methods: BTreeSet<String>,
}

/// A header that cannot be sent or understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadHeader {
    /// There is none, or it is empty.
    #[error("header {name} is missing")]
    Missing {
        /// The header.
        name: &'static str,
    },
    /// It holds what it may not.
    #[error("header {name} has an invalid value")]
    Invalid {
        /// The header.
        name: &'static str,
    },
}

impl Headers {
    /// A session that serves `methods`, each as `/package.Service/Method`.
    pub fn new(id: impl Into<String>, methods: impl IntoIterator<Item = impl AsRef<str>>) -> Headers {
        let methods = methods.into_iter().map(|method| method.as_ref().to_owned()).collect();
        Headers { id: id.into(), methods, ..Headers::default() }
    }

    /// Reads them from a call.
    ///
    /// # Errors
    /// Without an id there is no session; other headers may be absent but not unreadable.
    pub fn read(metadata: &MetadataMap) -> Result<Headers, BadHeader> {
        let text = |value: &AsciiMetadataValue, name| {
            value.to_str().map(str::to_owned).map_err(|_| BadHeader::Invalid { name })
        };
        let one = |name| metadata.get(name).map(|value| text(value, name)).transpose();
        let id = one(ID)?.filter(|id| !id.is_empty()).ok_or(BadHeader::Missing { name: ID })?;
        let health_timeout = match one(HEALTH_TIMEOUT)? {
            Some(millis) => {
                let millis = millis.parse().map_err(|_| BadHeader::Invalid { name: HEALTH_TIMEOUT })?;
                Some(Duration::from_millis(millis))
            }
            None => None,
        };
        let methods = metadata.get_all(METHOD).iter().map(|value| text(value, METHOD)).collect::<Result<_, _>>()?;
        Ok(Headers {
            id,
            name: one(NAME)?.unwrap_or_default(),
            shared_key: one(SHARED_KEY)?.unwrap_or_default(),
            health_timeout,
            methods,
        })
    }

    /// Writes them for a call.
    ///
    /// # Errors
    /// [`BadHeader::Invalid`] for text that no header can carry.
    pub fn write(&self, metadata: &mut MetadataMap) -> Result<(), BadHeader> {
        let value = |name, text: &str| AsciiMetadataValue::try_from(text).map_err(|_| BadHeader::Invalid { name });
        if self.id.is_empty() {
            return Err(BadHeader::Missing { name: ID });
        }
        metadata.insert(ID, value(ID, &self.id)?);
        metadata.insert(NAME, value(NAME, &self.name)?);
        metadata.insert(SHARED_KEY, value(SHARED_KEY, &self.shared_key)?);
        for method in &self.methods {
            metadata.append(METHOD, value(METHOD, method)?);
        }
        if let Some(timeout) = self.health_timeout {
            metadata.insert(HEALTH_TIMEOUT, AsciiMetadataValue::from(timeout.as_millis() as u64));
        }
        Ok(())
    }

    /// Whether the client serves `method`, given as `/package.Service/Method`; case does not count.
    pub fn serves(&self, method: &str) -> bool {
        self.methods.iter().any(|served| served.eq_ignore_ascii_case(method))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let headers = Headers {
            shared_key: "ctx:node".into(),
            health_timeout: Some(Duration::from_millis(2500)),
            ..Headers::new("s1", ["/moby.filesync.v1.Auth/Credentials", "/a.B/C"])
        };
        let mut metadata = MetadataMap::new();
        headers.write(&mut metadata).unwrap();
        assert_eq!(metadata.get_all("x-docker-expose-session-grpc-method").iter().count(), 2);
        assert_eq!(Headers::read(&metadata).unwrap(), headers);
    }

    #[test]
    fn methods_are_found_in_any_case() {
        let headers = Headers::new("s", ["/moby.filesync.v1.auth/credentials"]);
        assert!(headers.serves("/moby.filesync.v1.Auth/Credentials"));
        assert!(!headers.serves("/moby.filesync.v1.Auth/FetchToken"));
    }

    #[test]
    fn bad_headers_are_named() {
        let mut metadata = MetadataMap::new();
        assert_eq!(Headers::read(&metadata), Err(BadHeader::Missing { name: ID }));
        metadata.insert(ID, "".parse().unwrap());
        assert_eq!(Headers::read(&metadata), Err(BadHeader::Missing { name: ID }));
        metadata.insert(ID, "s".parse().unwrap());
        for timeout in ["-1", "soon", "99999999999999999999999"] {
            metadata.insert(HEALTH_TIMEOUT, timeout.parse().unwrap());
            assert_eq!(Headers::read(&metadata), Err(BadHeader::Invalid { name: HEALTH_TIMEOUT }), "{timeout}");
        }
        let unsendable = Headers { name: "a\nb".into(), ..Headers::new("s", [""; 0]) };
        assert_eq!(unsendable.write(&mut MetadataMap::new()), Err(BadHeader::Invalid { name: NAME }));
    }
}
