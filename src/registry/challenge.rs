//! What a registry asks of those it does not know, and which of it is believed.

use std::net::IpAddr;

use reqwest::header::{HeaderMap, WWW_AUTHENTICATE};
use reqwest::Url;

use super::config::is_loopback;

/// One way to introduce oneself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    /// A token from somewhere else.
    Bearer {
        /// Where tokens are given.
        realm: String,
        /// The registry's name there.
        service: Option<String>,
    },
    /// Name and password.
    Basic,
}

/// The challenges of an answer, best first. What is malformed or unknown is passed over.
pub(super) fn challenges(headers: &HeaderMap) -> Vec<Challenge> {
    let mut found = Vec::new();
    for header in headers.get_all(WWW_AUTHENTICATE) {
        let Ok(text) = header.to_str() else { continue };
        for challenge in http_auth::parser::ChallengeParser::new(text).map_while(Result::ok) {
            let parameter = |name: &str| {
                let (_, value) = challenge.params.iter().find(|(key, _)| key.eq_ignore_ascii_case(name))?;
                let mut text = String::new();
                value.append_unescaped(&mut text);
                Some(text).filter(|text| !text.is_empty())
            };
            if challenge.scheme.eq_ignore_ascii_case("bearer") {
                found
                    .extend(parameter("realm").map(|realm| Challenge::Bearer { realm, service: parameter("service") }));
            } else if challenge.scheme.eq_ignore_ascii_case("basic") {
                found.push(Challenge::Basic);
            }
        }
    }
    found.sort_by_key(|challenge| *challenge == Challenge::Basic);
    found
}

/// The place that a registry sends people to for tokens, if credentials may go there.
///
/// The rules keep a registry, or whoever speaks for it on an unencrypted line, from sending rbuild into the private
/// network or from having passwords sent in the clear: HTTPS, unless the registry itself is this very origin or the
/// user said of that host that it speaks HTTP (`may_be_http`); and no address of the inner network, unless the
/// registry has one.
///
/// # Errors
/// The broken rule.
pub(super) fn checked_realm(realm: &str, registry: &Url, may_be_http: impl Fn(&str) -> bool) -> Result<Url, String> {
    let url = Url::parse(realm).map_err(|error| format!("its token realm is no URL: {error}"))?;
    let shown = format!("{}://{}", url.scheme(), authority(&url));
    if !url.username().is_empty() || url.password().is_some() {
        return Err(format!("its token realm {shown} contains credentials"));
    }
    match url.scheme() {
        "https" => {}
        "http" if url.origin() == registry.origin() => {}
        "http" if registry.scheme() == "http" && may_be_http(&authority(&url)) => {}
        "http" => return Err(format!("its token realm {shown} is neither HTTPS nor the registry itself")),
        _ => return Err(format!("its token realm {shown} is no HTTPS URL")),
    }
    if !may_lead_to(registry, &url) {
        return Err(format!("its token realm {shown} is an address of the inner network"));
    }
    Ok(url)
}

/// Whether a registry may send rbuild to `url`: only one with an inner address may name other inner addresses.
pub(super) fn may_lead_to(registry: &Url, url: &Url) -> bool {
    !is_inner(url) || is_inner(registry) || url.host_str() == registry.host_str()
}

/// Whether the URL names an address that strangers cannot reach.
fn is_inner(url: &Url) -> bool {
    let Some(host) = url.host_str() else { return true };
    let name = host.trim_end_matches('.');
    if name == "localhost" || name.ends_with(".localhost") || is_loopback(host) {
        return true;
    }
    let Ok(address) = host.trim_matches(['[', ']']).parse::<IpAddr>() else { return false };
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            let [a, b, ..] = v4.octets();
            v4.is_private() || v4.is_loopback() || v4.is_link_local() || a == 0 || (a == 100 && (64..128).contains(&b))
        }
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unspecified() || v6.is_unique_local() || v6.is_unicast_link_local(),
    }
}

/// Host and port as references name them: the port only where it is not the scheme's own.
pub(super) fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(values: &[&str]) -> Vec<Challenge> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(WWW_AUTHENTICATE, value.parse().unwrap());
        }
        challenges(&headers)
    }

    fn bearer(realm: &str, service: Option<&str>) -> Challenge {
        Challenge::Bearer { realm: realm.into(), service: service.map(str::to_owned) }
    }

    #[test]
    fn challenges_in_the_wild_are_read() {
        let hub = r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/app:pull""#;
        let want = bearer("https://auth.docker.io/token", Some("registry.docker.io"));
        assert_eq!(parsed(&[hub]), [want]);
        assert_eq!(
            parsed(&[r#"Basic realm="x""#, r#"bearer REALM="https://a/t""#]),
            [bearer("https://a/t", None), Challenge::Basic]
        );
        assert_eq!(
            parsed(&[r#"Basic realm="x", Bearer realm="https://a/\"t",scope="a:b:pull,push""#]),
            [bearer("https://a/\"t", None), Challenge::Basic]
        );
        assert_eq!(parsed(&["Negotiate", "Bearer service=\"no realm\"", "=", "Bearer realm=\"\""]), []);
    }

    #[test]
    fn realms_that_lead_astray_are_refused() {
        let (outer, inner) = ("https://registry.example", "http://127.0.0.1:5000");
        for (registry, realm, reason) in [
            (outer, "http://auth.example/token", "neither HTTPS"),
            (outer, "http://registry.example/token", "neither HTTPS"),
            (outer, "https://127.0.0.1/token", "inner"),
            (outer, "https://localhost/token", "inner"),
            (outer, "https://x.localhost./token", "inner"),
            (outer, "https://169.254.169.254/latest", "inner"),
            (outer, "https://10.1.2.3/token", "inner"),
            (outer, "https://2130706433/token", "inner"),
            (outer, "https://0x7f.1/token", "inner"),
            (outer, "https://0.0.0.0/token", "inner"),
            (outer, "https://[::1]/token", "inner"),
            (outer, "https://[::ffff:10.0.0.1]/token", "inner"),
            (outer, "https://[fd00::1]/token", "inner"),
            (outer, "https://u:p@auth.example/token", "credentials"),
            (outer, "file:///etc/passwd", "no HTTPS"),
            (outer, "/token", "no URL"),
            (inner, "http://127.0.0.1:5001/token", "neither HTTPS"),
            (inner, "http://evil.example/token", "neither HTTPS"),
        ] {
            let refused = checked_realm(realm, &Url::parse(registry).unwrap(), |_| false);
            assert!(refused.as_ref().is_err_and(|said| said.contains(reason)), "{realm}: {refused:?}");
        }
    }

    #[test]
    fn realms_of_honest_registries_are_followed() {
        for (registry, realm) in [
            ("https://registry-1.docker.io", "https://auth.docker.io/token"),
            ("https://10.0.0.1:5000", "https://10.0.0.2/token"),
            ("http://127.0.0.1:5000", "http://127.0.0.1:5000/token"),
            ("http://registry.example", "http://registry.example/token"),
            ("http://registry.example", "http://auth.example:5001/token"),
            ("http://registry.example", "https://auth.example/token"),
        ] {
            let may_be_http = |host: &str| host == "auth.example:5001";
            let followed = checked_realm(realm, &Url::parse(registry).unwrap(), may_be_http);
            assert!(followed.is_ok(), "{realm}: {followed:?}");
        }
    }
}
