//! A file from any host, with what the configuration says about that host: certificates, proxies, patience.

use bytes::Bytes;
use reqwest::header::{HeaderName, ACCEPT_ENCODING, AUTHORIZATION, LOCATION};
use reqwest::{Method, Url};
use tokio::time::timeout;

use super::answer::Answer;
use super::challenge::{authority, may_lead_to};
use super::error::{Error, Result};
use super::secret::Secret;
use super::transport::{described, transport_error, trust, REDIRECTS};
use super::Registry;

/// What is asked for.
#[derive(Debug)]
pub struct Get<'a> {
    /// Where. Its user and password become the introduction.
    pub url: &'a Url,
    /// Said to whoever answers.
    pub headers: &'a [(HeaderName, String)],
    /// The value of `Authorization`, said to the first origin only.
    pub authorization: Option<Secret>,
    /// A redirect from HTTPS to plain HTTP is followed: what comes is verified otherwise.
    pub may_leave_https: bool,
}

/// An answer whose body is still to be read.
#[derive(Debug)]
pub struct Got(Answer);

impl Got {
    /// The status.
    pub fn status(&self) -> u16 {
        self.0.status().as_u16()
    }

    /// A header, if it is text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.0.header(name)
    }

    /// How many bytes are announced.
    pub fn announced(&self) -> Option<u64> {
        self.0.announced()
    }

    /// The next piece of the body; none at its end.
    ///
    /// # Errors
    /// [`Error::Stalled`] and [`Error::Broken`].
    pub async fn chunk(&mut self) -> Result<Option<Bytes>> {
        self.0.chunk().await
    }
}

impl Registry {
    /// Asks for a file and follows where that leads. Any status is an answer.
    ///
    /// # Errors
    /// No connection, no answer in time, a redirect that is not followed.
    pub async fn get(&self, get: &Get<'_>) -> Result<Got> {
        let mut at = get.url.clone();
        let userinfo = (!at.username().is_empty()).then(|| (at.username().to_owned(), at.password().map(Secret::new)));
        // They can be set on any URL that has a host.
        let _ = (at.set_username(""), at.set_password(None));
        let first = at.clone();
        let mut is_away = false;
        for _ in 0..=REDIRECTS {
            let client = self.client_with(trust(&self.about(&authority(&at))?), authority(&at))?;
            let mut asking = client.get(at.clone()).header(ACCEPT_ENCODING, "identity");
            for (name, value) in get.headers {
                asking = asking.header(name, value);
            }
            match (&get.authorization, &userinfo) {
                _ if is_away => {}
                (Some(secret), _) => asking = asking.header(AUTHORIZATION, secret.expose()),
                (None, Some((user, password))) => {
                    asking = asking.basic_auth(user, password.as_ref().map(Secret::expose));
                }
                (None, None) => {}
            }
            let (request, stall) = (described(&Method::GET, &at), self.limits().stall);
            let response = match timeout(stall, asking.send()).await {
                Err(_) => return Err(Error::Stalled { request, after: stall }),
                Ok(answer) => answer.map_err(|error| transport_error(error, &at, request.clone()))?,
            };
            if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
                return Ok(Got(Answer { response, request, stall, is_from_addressee: !is_away, _slot: None }));
            }
            let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
            let next = led(&first, &at, location, get.may_leave_https)
                .map_err(|reason| Error::Refused { request, reason: reason.to_owned() })?;
            // Once away, always away: a redirect back is the other origin's wish.
            is_away |= next.origin() != first.origin();
            at = next;
        }
        let reason = format!("it leads on and on: more than {REDIRECTS} redirects");
        Err(Error::Refused { request: described(&Method::GET, &first), reason })
    }
}

/// Where a Location header leads, or why rbuild does not go there.
fn led(first: &Url, from: &Url, location: &str, may_leave_https: bool) -> std::result::Result<Url, &'static str> {
    if location.is_empty() {
        return Err("it leads nowhere: the Location header is missing");
    }
    let to = from.join(location).map_err(|_| "it leads to something that is no URL")?;
    if !matches!(to.scheme(), "http" | "https") || to.host_str().is_none() {
        return Err("it leads to something that is not HTTP");
    }
    if from.scheme() == "https" && to.scheme() == "http" && !may_leave_https {
        return Err(
            "it leads from HTTPS to plain HTTP, where anybody could change the file; say what it is (--checksum)",
        );
    }
    if !to.username().is_empty() || to.password().is_some() {
        return Err("it leads to a URL with credentials");
    }
    if !may_lead_to(first, &to) {
        return Err("it leads into the private network");
    }
    Ok(to)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_are_followed_only_where_that_is_safe() {
        for (first, location, may_leave_https, want) in [
            ("https://a.example/x", "/y", false, Ok("https://a.example/y")),
            ("https://a.example/x", "https://cdn.example/y?s=1", false, Ok("https://cdn.example/y?s=1")),
            ("http://a.example/x", "https://a.example/x", false, Ok("https://a.example/x")),
            ("http://127.0.0.1:1/x", "http://localhost:2/x", false, Ok("http://localhost:2/x")),
            ("https://a.example/x", "http://a.example/y", true, Ok("http://a.example/y")),
            ("https://a.example/x", "http://a.example/y", false, Err("plain HTTP")),
            ("https://a.example/x", "https://169.254.169.254/latest", true, Err("private network")),
            ("https://a.example/x", "https://u:p@b.example/", true, Err("credentials")),
            ("https://a.example/x", "file:///etc/passwd", true, Err("not HTTP")),
            ("https://a.example/x", "", true, Err("nowhere")),
        ] {
            let url = Url::parse(first).unwrap();
            match (led(&url, &url, location, may_leave_https), want) {
                (Ok(to), Ok(want)) => assert_eq!(to.as_str(), want),
                (Err(said), Err(want)) => assert!(said.contains(want), "{location}: {said}"),
                (led, want) => panic!("{location}: {led:?}, want {want:?}"),
            }
        }
    }
}
