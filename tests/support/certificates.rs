//! Certificates for tests, made by openssl.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use super::text;

/// An authority, and certificates of it for 127.0.0.1 and for a client: `ca.crt`, `server.crt` with `server.key`,
/// `client.crt` with `client.key`.
pub fn make_certificates(dir: &Path) {
    let openssl = |line: &str| {
        let output =
            Command::new("openssl").args(line.split(' ')).current_dir(dir).stdin(Stdio::null()).output().unwrap();
        assert!(output.status.success(), "openssl {line}: {}", text(&output.stderr));
    };
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
    openssl(&format!("req -x509 -days 2 -subj /CN=authority -keyout ca.key -out ca.crt {key}"));
    fs::write(dir.join("names"), "subjectAltName=IP:127.0.0.1\nbasicConstraints=CA:FALSE\n").unwrap();
    for name in ["server", "client"] {
        openssl(&format!("req -new -subj /CN=somebody -keyout {name}.key -out request {key}"));
        let authority = "-CA ca.crt -CAkey ca.key -CAcreateserial -extfile names";
        openssl(&format!("x509 -req -days 2 -in request -out {name}.crt {authority}"));
    }
}
