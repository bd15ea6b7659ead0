//! A real registry, and skopeo as the other client.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use flate2::write::GzEncoder;
use rbuild::image::Digest;
use rbuild::registry::{Config, Credentials, Error, HostConfig, KeyPair, Reference, Registry, Scheme};

use crate::fixture::*;

/// `user:canary`, hashed as `htpasswd -B` does.
const HTPASSWD: &str = "user:$2b$04$4fQFWh112d9IkHRyR36rAOpnCE5iWe8KEPGzILmaI2Hz0/FxZ3z0K\n";

/// Whether a program is there; says that its test is skipped. In CI its absence fails the test.
fn have(programs: &[&str]) -> bool {
    let path = std::env::var("PATH").unwrap_or_default();
    let is_there = |program: &&&str| path.split(':').any(|dir| Path::new(dir).join(program).exists());
    let Some(missing) = programs.iter().find(|program| !is_there(program)) else { return true };
    assert!(std::env::var_os("CI").is_none(), "{missing} is not installed");
    eprintln!("skipped: {missing} is not installed");
    false
}

/// `docker-registry` on a port and in a directory of its own; killed at the end.
struct Daemon {
    process: Child,
    host: String,
    dir: tempfile::TempDir,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Daemon {
    fn start(protection: impl FnOnce(&Path) -> String) -> Daemon {
        let dir = tempfile::Builder::new().prefix("rbuild-test-").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let more = protection(dir.path());
        // Somebody else may take the port before the registry does; then it exits, and another one is tried.
        for _ in 0..5 {
            let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
            let config = format!(
                "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\n\
                 storage: {{filesystem: {{rootdirectory: {}}}}}\nhttp:\n  addr: {address}\n{more}",
                dir.path().join("data").display()
            );
            let file = dir.path().join("config.yml");
            fs::write(&file, config).unwrap();
            let mut process = Command::new("docker-registry")
                .arg("serve")
                .arg(&file)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .env("OTEL_TRACES_EXPORTER", "none")
                .spawn()
                .unwrap();
            let since = Instant::now();
            while since.elapsed() < Duration::from_secs(20) && process.try_wait().unwrap().is_none() {
                if TcpStream::connect(address).is_ok() {
                    return Daemon { process, host: address.to_string(), dir };
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            let _ = process.kill();
            let _ = process.wait();
        }
        panic!("docker-registry does not start");
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn reference(&self, rest: &str) -> Reference {
        format!("{}/{rest}", self.host).parse().unwrap()
    }

    /// Runs skopeo, which must succeed.
    fn skopeo(&self, args: &[&str]) -> Vec<u8> {
        let mut command = Command::new("skopeo");
        command
            .arg("--insecure-policy")
            .args(args)
            .env("HOME", self.dir.path())
            .env("XDG_RUNTIME_DIR", self.dir.path());
        let output = command.stdin(Stdio::null()).output().unwrap();
        assert!(output.status.success(), "skopeo {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }
}

/// An image that other tools accept: its layers are gzipped tars.
fn honest_image() -> Image {
    let layers = [1, 2].map(|seed: u64| {
        let mut tar = tar::Builder::new(Vec::new());
        let content = noise(seed, 200_000);
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, format!("file-{seed}"), &content[..]).unwrap();
        let mut gzip = GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&tar.into_inner().unwrap()).unwrap();
        gzip.finish().unwrap()
    });
    let mut diff_ids = Vec::new();
    for layer in &layers {
        let mut tar = Vec::new();
        flate2::read::GzDecoder::new(&layer[..]).read_to_end(&mut tar).unwrap();
        diff_ids.push(Digest::of(&tar).to_string());
    }
    Image::with_diff_ids(layers.to_vec(), "amd64", &diff_ids)
}

/// rbuild pushes and skopeo reads; skopeo pushes and rbuild reads.
async fn both_ways(daemon: &Daemon, client: &Registry, skopeo: &[&str]) {
    let image = honest_image();
    let told = Told::default();
    let pushed = client.push(&daemon.reference("team/app:1"), &image.content(), &told.listener()).await.unwrap();
    assert_eq!((pushed.digest, pushed.sent), (image.descriptor().digest, 3));
    let again = client.push(&daemon.reference("team/app:1"), &image.content(), &told.listener()).await.unwrap();
    assert_eq!((again.digest, again.sent), (pushed.digest, 0));

    let url = |name: &str| format!("docker://{}/{name}", daemon.host);
    let flags = |which: &str| skopeo.iter().map(|flag| flag.replace("SIDE", which)).collect::<Vec<_>>();
    let run = |first: &[&str], which: &str, last: &[&str]| {
        let flags = flags(which);
        let all: Vec<&str> =
            first.iter().copied().chain(flags.iter().map(String::as_str)).chain(last.iter().copied()).collect();
        daemon.skopeo(&all)
    };
    let raw = run(&["inspect", "--raw"], "", &[&url("team/app:1")]);
    assert_eq!(Digest::of(&raw), pushed.digest);
    let layout = daemon.path("layout");
    let to_layout = format!("oci:{}:1", layout.display());
    run(&["copy", "--quiet"], "src-", &[&url("team/app:1"), &to_layout]);
    for blob in image.layers.iter().chain([&image.config, &image.manifest]) {
        let copied = fs::read(layout.join("blobs/sha256").join(Digest::of(blob).hex())).unwrap();
        assert!(copied == *blob);
    }

    run(&["copy", "--quiet"], "dest-", &[&to_layout, &url("from/skopeo:2")]);
    let (resolved, layers) = pull(client, &daemon.reference("from/skopeo:2")).await.unwrap();
    assert_eq!((resolved.top.digest, resolved.config), (pushed.digest, image.config.clone()));
    assert!(layers == image.layers);

    // A repository that has nothing takes everything from one that has it.
    let mut content = image.content();
    for blob in &mut content.blobs {
        blob.also_in = vec![daemon.reference("team/app")];
    }
    let mounted = client.push(&daemon.reference("other/app:3"), &content, &told.listener()).await.unwrap();
    assert_eq!(mounted.sent, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_registry_and_skopeo_agree() {
    if !have(&["docker-registry", "skopeo"]) {
        return;
    }
    let daemon = Daemon::start(|_| String::new());
    // Nothing is said about it: it is on this machine, so plain HTTP is found out.
    let client = Registry::new(Config::default(), Credentials::default(), patient());
    both_ways(&daemon, &client, &["--SIDEtls-verify=false"]).await;
    let missing = resolve(&client, &daemon.reference("team/app:none")).await.unwrap_err();
    assert!(missing.is_not_found(), "{}", told(&missing));
}

#[tokio::test(flavor = "multi_thread")]
async fn protected_registry_and_skopeo_agree() {
    if !have(&["docker-registry", "skopeo", "openssl"]) {
        return;
    }
    let daemon = Daemon::start(|dir| {
        make_certificates(dir);
        fs::write(dir.join("htpasswd"), HTPASSWD).unwrap();
        let at = |name: &str| dir.join(name).display().to_string();
        format!(
            "  tls: {{certificate: {}, key: {}, clientcas: [{}]}}\nauth: {{htpasswd: {{realm: here, path: {}}}}}\n",
            at("server.crt"),
            at("server.key"),
            at("ca.crt"),
            at("htpasswd")
        )
    });
    // The authority and what clients show lie where Docker would have them.
    let certs = daemon.path("certs.d");
    fs::create_dir_all(certs.join(&daemon.host)).unwrap();
    for name in ["ca.crt", "client.cert", "client.key"] {
        fs::copy(daemon.path(name), certs.join(&daemon.host).join(name)).unwrap();
    }
    let config = Config { certs_dirs: vec![certs.clone()], ..Config::default() };
    let right = password(&daemon.host, "user", "canary");
    let client = Registry::new(config.clone(), right.clone(), patient());
    let cert_dir = format!("--SIDEcert-dir={}", certs.join(&daemon.host).display());
    both_ways(&daemon, &client, &[&cert_dir, "--SIDEcreds=user:canary"]).await;

    let reference = daemon.reference("team/app:1");
    let wrong = Registry::new(config, password(&daemon.host, "user", "wrong"), patient());
    let error = resolve(&wrong, &reference).await.unwrap_err();
    assert!(matches!(error, Error::Unauthorized { .. }), "{}", told(&error));
    // Without the authority there is no connection, and no password leaves; not even in plain HTTP.
    let stranger = Registry::new(Config::default(), right.clone(), patient());
    let error = resolve(&stranger, &reference).await.unwrap_err();
    assert!(told(&error).contains("certificate"), "{}", told(&error));
    // Who shows no certificate, or whose word is taken for the registry's, is as the configuration says.
    let ca = vec![daemon.path("ca.crt")];
    let keypair = KeyPair { key: daemon.path("client.key"), cert: daemon.path("client.cert") };
    let verified = HostConfig { ca, ..HostConfig::default() };
    let unverified = HostConfig { schemes: vec![Scheme::HttpsUnverified], ..HostConfig::default() };
    for (about, is_let_in) in [
        (HostConfig { keypairs: vec![keypair.clone()], ..verified.clone() }, true),
        (HostConfig { keypairs: vec![keypair], ..unverified.clone() }, true),
        (verified, false),
        (unverified, false),
    ] {
        let config = Config { hosts: [(daemon.host.clone(), about.clone())].into(), ..Config::default() };
        let answer = resolve(&Registry::new(config, right.clone(), patient()), &reference).await;
        assert_eq!(answer.is_ok(), is_let_in, "{about:?}: {answer:?}");
    }
}

/// An authority, and certificates of it for 127.0.0.1 and for a client.
fn make_certificates(dir: &Path) {
    let openssl = |args: &[&str]| {
        let output = Command::new("openssl").args(args).current_dir(dir).stdin(Stdio::null()).output().unwrap();
        assert!(output.status.success(), "openssl {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    };
    let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
    let authority = ["req", "-x509", "-days", "2", "-subj", "/CN=authority", "-keyout", "ca.key", "-out", "ca.crt"];
    openssl(&[&authority[..], &key].concat());
    fs::write(dir.join("names"), "subjectAltName=IP:127.0.0.1\nbasicConstraints=CA:FALSE\n").unwrap();
    for (private, public) in [("server.key", "server.crt"), ("client.key", "client.cert")] {
        let request = ["req", "-new", "-subj", "/CN=somebody", "-keyout", private, "-out", "request"];
        openssl(&[&request[..], &key].concat());
        let sign = ["x509", "-req", "-days", "2", "-in", "request", "-out", public, "-extfile", "names"];
        openssl(&[&sign[..], &["-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial"]].concat());
    }
}
