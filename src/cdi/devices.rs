//! The devices that there are on this machine, and those that a name means.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::spec::{is_device_name, is_kind, Spec};
use super::{Config, Error};

/// What a device calls a group of devices that it belongs to.
const CLASS: &str = "org.mobyproject.buildkit.device.class";
/// What says that everybody may have a device.
const AUTO_ALLOW: &str = "org.mobyproject.buildkit.device.autoallow";

/// All devices, by their whole names.
#[derive(Debug, Default)]
pub struct Devices {
    pub(super) found: BTreeMap<String, Found>,
    /// Files that could not be read, and why.
    broken: Vec<(PathBuf, String)>,
    auto_allowed: Vec<String>,
    is_disabled: bool,
}

/// Where a device is described.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub spec: Arc<Spec>,
    pub index: usize,
    file: PathBuf,
}

/// A device as others are told of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// `VENDOR/CLASS=NAME`.
    pub name: String,
    /// Everybody may have it.
    pub is_auto_allowed: bool,
    /// What its specification says of it.
    pub annotations: BTreeMap<String, String>,
}

impl Devices {
    /// Reads the specifications of all directories. One that cannot be read is told of when a device is missing.
    pub fn read(config: &Config) -> Devices {
        let mut devices =
            Devices { auto_allowed: config.auto_allowed.clone(), is_disabled: config.disabled, ..Devices::default() };
        if config.disabled {
            return devices;
        }
        for directory in &config.directories {
            devices.read_directory(directory);
        }
        devices
    }

    /// A later directory goes before earlier ones; what two files of one directory describe is neither's.
    fn read_directory(&mut self, directory: &Path) {
        let entries = std::fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path());
        let is_spec =
            |path: &PathBuf| path.extension().is_some_and(|kind| kind == "json" || kind == "yaml" || kind == "yml");
        let mut files: Vec<PathBuf> = entries.filter(is_spec).collect();
        files.sort();
        let mut here: BTreeMap<String, Vec<Found>> = BTreeMap::new();
        for file in files {
            match Spec::of_file(&file) {
                Err(why) => self.broken.push((file, why)),
                Ok(spec) => {
                    let spec = Arc::new(spec);
                    for (index, device) in spec.devices.iter().enumerate() {
                        let found = Found { spec: Arc::clone(&spec), index, file: file.clone() };
                        here.entry(format!("{}={}", spec.kind, device.name)).or_default().push(found);
                    }
                }
            }
        }
        for (name, mut found) in here {
            match (found.pop(), found.first()) {
                (Some(only), None) => drop(self.found.insert(name, only)),
                (Some(one), Some(other)) => {
                    let why = format!("{name} is described here and in {}", other.file.display());
                    self.broken.push((one.file, why));
                    self.found.remove(&name);
                }
                (None, _) => {}
            }
        }
    }

    /// All of them, in the order of their names.
    pub fn list(&self) -> Vec<Device> {
        self.found.keys().map(|name| self.told(name)).collect()
    }

    pub(super) fn told(&self, name: &str) -> Device {
        let annotations = self.annotations(name);
        let kind = name.split('=').next().unwrap_or_default();
        let says_so = annotations
            .get(AUTO_ALLOW)
            .is_some_and(|value| matches!(value.as_str(), "1" | "t" | "T" | "true" | "TRUE" | "True"));
        let is_auto_allowed = says_so || self.auto_allowed.iter().any(|allowed| allowed == name || allowed == kind);
        Device { name: name.to_owned(), is_auto_allowed, annotations }
    }

    /// Those of the specification, and stronger ones of the device.
    fn annotations(&self, name: &str) -> BTreeMap<String, String> {
        let Some(Found { spec, index, .. }) = self.found.get(name) else { return BTreeMap::new() };
        let own = spec.devices.get(*index).map(|device| device.annotations.clone()).unwrap_or_default();
        spec.annotations.clone().into_iter().chain(own).collect()
    }

    /// The devices that a name means: one, all of a kind (`=*`), the first of a kind (no `=`), or those of a class.
    ///
    /// # Errors
    /// [`Error::BadName`], [`Error::NotRegistered`] for one that is not optional.
    pub(super) fn resolve(&self, name: &str, is_optional: bool) -> Result<Vec<String>, Error> {
        let (kind, device) = name.split_once('=').unwrap_or((name, ""));
        if !is_kind(kind) || !(matches!(device, "" | "*") || is_device_name(device)) {
            return Err(Error::BadName { name: name.chars().take(200).collect() });
        }
        let of_kind = || self.found.keys().filter(|other| other.split('=').next() == Some(kind));
        let names: Vec<String> = match device {
            "" => of_kind().take(1).cloned().collect(),
            "*" => of_kind().cloned().collect(),
            _ if self.found.contains_key(name) => vec![name.to_owned()],
            class => {
                let is_of_class =
                    |other: &&String| self.annotations(other).get(CLASS).is_some_and(|value| value == class);
                of_kind().filter(is_of_class).cloned().collect()
            }
        };
        if names.is_empty() && !is_optional {
            return Err(Error::NotRegistered { name: name.to_owned(), why: self.obstacle() });
        }
        Ok(names)
    }

    fn obstacle(&self) -> Option<String> {
        if self.is_disabled {
            return Some("devices are disabled in the configuration file ([cdi])".to_owned());
        }
        let (file, why) = self.broken.first()?;
        Some(format!("{}: {why}", file.display()))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Devices of specifications that are written down here.
    pub(in crate::cdi) fn devices(directories: &[&[(&str, &str)]], auto_allowed: &[&str]) -> Devices {
        let root = tempfile::tempdir().unwrap();
        let mut config =
            Config { auto_allowed: auto_allowed.iter().map(|s| s.to_string()).collect(), ..Config::default() };
        config.directories.clear();
        for (number, files) in directories.iter().enumerate() {
            let directory = root.path().join(number.to_string());
            std::fs::create_dir(&directory).unwrap();
            for (name, text) in *files {
                std::fs::write(directory.join(name), text).unwrap();
            }
            config.directories.push(directory);
        }
        config.directories.push("/nowhere".into());
        Devices::read(&config)
    }

    pub(in crate::cdi) const GPUS: &str = "\
cdiVersion: 0.6.0
kind: v.com/gpu
annotations:
  org.mobyproject.buildkit.device.class: fast
devices:
- name: b
  containerEdits: { env: [GPU=b] }
- name: a
  annotations: { org.mobyproject.buildkit.device.class: slow, org.mobyproject.buildkit.device.autoallow: true }
  containerEdits: { env: [GPU=a] }
";

    #[test]
    fn names_mean_one_or_several() {
        let devices = devices(&[&[("gpus.yaml", GPUS), ("readme.txt", "no spec")]], &["v.com/gpu=b"]);
        let resolve = |name: &str| devices.resolve(name, false).map(|names| names.join(" ")).map_err(|e| e.to_string());
        for (name, want) in [
            ("v.com/gpu=b", "v.com/gpu=b"),
            ("v.com/gpu", "v.com/gpu=a"),
            ("v.com/gpu=*", "v.com/gpu=a v.com/gpu=b"),
            ("v.com/gpu=fast", "v.com/gpu=b"),
            ("v.com/gpu=slow", "v.com/gpu=a"),
        ] {
            assert_eq!(resolve(name).as_deref(), Ok(want));
        }
        assert_eq!(resolve("v.com/gpu=c").unwrap_err(), "required device \"v.com/gpu=c\" is not registered");
        assert_eq!(devices.resolve("v.com/gpu=c", true), Ok(vec![]));
        for bad in ["", "gpu", "v.com/=a", "v.com/gpu=../x", "v.com/gpu=a b", "/gpu=a"] {
            assert!(resolve(bad).unwrap_err().starts_with("invalid device"), "{bad}");
        }
        let told: Vec<_> = devices.list().into_iter().map(|device| (device.name, device.is_auto_allowed)).collect();
        assert_eq!(told, [("v.com/gpu=a".to_owned(), true), ("v.com/gpu=b".to_owned(), true)]);
    }

    #[test]
    fn later_directories_go_before_and_equals_cancel_each_other() {
        let later = GPUS.replace("GPU=a", "GPU=later");
        let other = "{\"cdiVersion\": \"0.5.0\", \"kind\": \"v.com/gpu\", \"devices\": [{\"name\": \"b\"}]}";
        let devices = devices(&[&[("a.yaml", GPUS)], &[("a.yaml", &later), ("b.json", other)]], &[]);
        assert_eq!(devices.found.keys().collect::<Vec<_>>(), ["v.com/gpu=a"]);
        let why = devices.resolve("v.com/gpu=b", false).unwrap_err().to_string();
        assert!(why.contains("v.com/gpu=b is described here and in"), "{why}");
    }

    #[test]
    fn a_file_that_cannot_be_read_is_told_of_when_it_is_missed() {
        let devices = devices(&[&[("a.yaml", GPUS), ("b.yaml", "cdiVersion: 7\nkind: w/x")]], &[]);
        assert!(devices.resolve("v.com/gpu", false).is_ok());
        let why = devices.resolve("w/x=1", false).unwrap_err().to_string();
        assert!(why.contains("b.yaml: cdiVersion \"7\" is not known"), "{why}");
        let none = Devices::read(&Config { disabled: true, ..Config::default() });
        assert!(none.resolve("w/x=1", false).unwrap_err().to_string().contains("disabled"));
    }
}
