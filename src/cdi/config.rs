//! Where specifications are, and which devices everybody may have: `[cdi]` of the configuration file.
//!
//! ```toml
//! [cdi]
//! disabled = false
//! specDirs = ["/etc/cdi", "/var/run/cdi", "/etc/buildkit/cdi"]
//! autoAllowed = ["vendor.com/gpu"]
//! ```

use std::path::PathBuf;

use toml::{Table, Value};

/// What the section says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// There are no devices.
    pub disabled: bool,
    /// Directories with specifications; of two with one device the later counts.
    pub directories: Vec<PathBuf>,
    /// Devices or kinds (`vendor.com/gpu`) that need no `--allow`.
    pub auto_allowed: Vec<String>,
}

impl Default for Config {
    fn default() -> Config {
        let directories = ["/etc/cdi", "/var/run/cdi", "/etc/buildkit/cdi"].map(PathBuf::from).to_vec();
        Config { disabled: false, directories, auto_allowed: Vec::new() }
    }
}

impl Config {
    /// Reads the section; also gives the keys that are not known.
    ///
    /// # Errors
    /// A sentence about the first value that is not what it should be.
    pub fn of_table(table: &Table) -> Result<(Config, Vec<String>), String> {
        let (mut config, mut unknown) = (Config::default(), Vec::new());
        for (key, value) in table {
            match key.as_str() {
                "disabled" => {
                    config.disabled = value.as_bool().ok_or("cdi.disabled: is neither true nor false")?;
                }
                "specDirs" => config.directories = strings(key, value)?.into_iter().map(PathBuf::from).collect(),
                "autoAllowed" => config.auto_allowed = strings(key, value)?,
                _ => unknown.push(format!("cdi.{key}")),
            }
        }
        Ok((config, unknown))
    }
}

fn strings(key: &str, value: &Value) -> Result<Vec<String>, String> {
    let list = value.as_array().ok_or_else(|| format!("cdi.{key}: is no list"))?;
    let text =
        |value: &Value| value.as_str().map(str::to_owned).ok_or_else(|| format!("cdi.{key}: is no list of texts"));
    list.iter().map(text).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_is_read() {
        let read = |text: &str| Config::of_table(&text.parse().unwrap());
        assert_eq!(read(""), Ok((Config::default(), vec![])));
        let (config, unknown) = read("disabled = true\nspecDirs = ['/a']\nautoAllowed = ['v/c=d']\nnew = 1").unwrap();
        assert!(config.disabled && config.directories == [PathBuf::from("/a")] && config.auto_allowed == ["v/c=d"]);
        assert_eq!(unknown, ["cdi.new"]);
        for bad in ["disabled = 1", "specDirs = '/a'", "autoAllowed = [1]"] {
            assert!(read(bad).unwrap_err().starts_with("cdi."), "{bad}");
        }
    }
}
