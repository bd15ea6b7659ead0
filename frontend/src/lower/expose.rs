//! EXPOSE: ports.

use std::net::IpAddr;

use super::build::{At, Build};
use super::stage::StageState;
use crate::ast::quote;
use crate::config::Empty;
use crate::diagnostic::Diagnostic;
use crate::expand::{expand, Mode};
use crate::lint;
use crate::source::{Span, Spanned};

/// Declares ports.
pub(super) fn expose(build: &mut Build, state: &mut StageState, words: &[Spanned], at: &At) -> Result<(), Diagnostic> {
    let mut words = words.to_vec();
    words.sort_by(|a, b| a.text.cmp(&b.text));
    let mut ports = Vec::new();
    for word in &words {
        // Variables without a value are no finding here, as one may stand for no port at all.
        let expanded = expand(&word.text, &state.env, Mode::words(build.scene.escape))
            .map_err(|error| Diagnostic::error("expansion", word.span, error.to_string()))?;
        build.effort.spend(expanded.text.len(), at.place(word.span))?;
        for spec in expanded.words() {
            lint::port(at.place(word.span), spec, &mut build.lints);
            let parsed = self::ports(spec, word.span)?;
            // A few letters may mean all ports there are.
            build.effort.spend(parsed.iter().map(|port| port.len() + 32).sum(), at.place(word.span))?;
            ports.extend(parsed);
        }
    }
    state.config.config.exposed_ports.extend(ports.iter().map(|port| (port.clone(), Empty {})));
    state.config.commit(format!("EXPOSE [{}]", ports.join(" ")), false, build.scene.epoch);
    Ok(())
}

/// The ports that `spec` means, each with its protocol.
///
/// # Errors
/// It means none.
pub(super) fn ports(spec: &str, span: Span) -> Result<Vec<String>, Diagnostic> {
    parse(spec).map_err(|reason| {
        let message = format!("invalid port: {}: {reason}", quote(spec));
        Diagnostic::error("invalid-port", span, message)
    })
}

/// Reads `[[ip:]host:]port[-port][/protocol]`; only the container's side counts.
fn parse(spec: &str) -> Result<Vec<String>, String> {
    let parts: Vec<&str> = spec.split(':').collect();
    let (ip, host, container) = match parts[..] {
        [container] => (String::new(), "", container),
        [host, container] => (String::new(), host, container),
        [ref ip @ .., host, container] => (ip.join(":"), host, container),
        [] => (String::new(), "", ""),
    };
    let (port, protocol) = container.split_once('/').unwrap_or((container, ""));
    if port.is_empty() {
        return Err("no port specified".into());
    }
    let protocol = match protocol.to_lowercase().as_str() {
        "" => "tcp".to_string(),
        known @ ("tcp" | "udp" | "sctp") => known.to_string(),
        other => return Err(format!("invalid proto: {other}")),
    };
    let bare = ip.strip_prefix('[').and_then(|ip| ip.strip_suffix(']')).unwrap_or(&ip);
    if !bare.is_empty() && bare.parse::<IpAddr>().is_err() {
        return Err(format!("invalid IP address: {ip}"));
    }
    let (first, last) = range(port).ok_or_else(|| format!("invalid containerPort: {port}"))?;
    if !host.is_empty() {
        let (from, to) = range(host).ok_or_else(|| format!("invalid hostPort: {host}"))?;
        if first != last && last - first != to - from {
            return Err(format!("invalid ranges specified for container and host Ports: {port} and {host}"));
        }
    }
    Ok((first..=last).map(|port| format!("{port}/{protocol}")).collect())
}

fn range(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let number = |text: &str| text.parse::<u16>().ok().filter(|_| !text.starts_with('+'));
    let (first, last) = (number(first)?, number(last)?);
    (first <= last).then_some((first, last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read() {
        for (spec, expected) in [
            ("80", Ok(vec!["80/tcp"])),
            ("53/UDP", Ok(vec!["53/udp"])),
            ("8000-8002/sctp", Ok(vec!["8000/sctp", "8001/sctp", "8002/sctp"])),
            ("8080:80", Ok(vec!["80/tcp"])),
            ("127.0.0.1::80", Ok(vec!["80/tcp"])),
            ("[::1]:1-2:3-4", Ok(vec!["3/tcp", "4/tcp"])),
            ("1000-2000:80", Ok(vec!["80/tcp"])),
            ("", Err("no port specified")),
            ("/tcp", Err("no port specified")),
            ("80/icmp", Err("invalid proto: icmp")),
            ("http", Err("invalid containerPort: http")),
            ("70000", Err("invalid containerPort: 70000")),
            ("5-4", Err("invalid containerPort: 5-4")),
            ("x:80", Err("invalid hostPort: x")),
            ("1.2.3:1:80", Err("invalid IP address: 1.2.3")),
            ("1-3:80-81", Err("invalid ranges specified for container and host Ports: 80-81 and 1-3")),
        ] {
            let expected = expected.map(|ports| ports.into_iter().map(String::from).collect()).map_err(String::from);
            assert_eq!(parse(spec), expected, "{spec}");
        }
    }
}
