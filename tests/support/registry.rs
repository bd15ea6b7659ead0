//! A real registry for tests: Debian's docker-registry, and what it was asked.

use std::fs;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Debian's docker-registry on a free port of this machine.
pub struct Registry {
    process: Child,
    pub address: String,
    pub dir: tempfile::TempDir,
}

impl Registry {
    /// Starts it.
    pub fn start() -> Registry {
        let dir = super::scratch();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let address = format!("127.0.0.1:{port}");
        let config = format!(
            "version: 0.1\nstorage: {{ filesystem: {{ rootdirectory: {} }} }}\nhttp: {{ addr: {address} }}\n\
             log: {{ level: info }}\n",
            dir.path().join("data").display()
        );
        let file = dir.path().join("config.yml");
        fs::write(&file, config).unwrap();
        let log = fs::File::create(dir.path().join("log")).unwrap();
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(&file).stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let process = command.spawn().unwrap();
        let start = Instant::now();
        while std::net::TcpStream::connect(&address).is_err() {
            assert!(start.elapsed() < Duration::from_secs(20), "docker-registry does not answer");
            std::thread::sleep(Duration::from_millis(20));
        }
        Registry { process, address, dir }
    }

    /// A name in it.
    pub fn name(&self, rest: &str) -> String {
        format!("{}/{rest}", self.address)
    }

    /// How many requests of this method for this kind of path the registry has logged.
    pub fn requests(&self, method: &str, part: &str) -> usize {
        let log = fs::read_to_string(self.dir.path().join("log")).unwrap();
        log.lines().filter(|line| line.contains(&format!("\"{method} ")) && line.contains(part)).count()
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
