//! Which devices a build may have: `device`, `device=NAME` and `device=NAME,alias=OTHER` among its entitlements.

use std::collections::{BTreeMap, BTreeSet};

use super::{Devices, Error};

/// What a build was allowed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grants {
    /// All devices.
    pub all: bool,
    /// Single ones by the name under which they may be asked for, with the device that is meant where that is another.
    named: BTreeMap<String, Option<String>>,
}

impl Grants {
    /// Adds what stands behind `device=`; empty is all devices.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn add(&mut self, text: &str) -> Result<(), String> {
        if text.is_empty() {
            self.all = true;
            return Ok(());
        }
        let (name, rest) = text.split_once(',').unwrap_or((text, ""));
        let mut alias = None;
        for field in rest.split(',').filter(|field| !field.is_empty()) {
            match field.split_once('=') {
                Some(("alias", value)) if !value.is_empty() => alias = Some(value.to_owned()),
                Some((key, _)) => return Err(format!("unknown device config key {key:?}")),
                None => return Err(format!("invalid device config {field:?}")),
            }
        }
        match alias {
            Some(alias) => self.named.insert(alias, Some(name.to_owned())),
            None => self.named.insert(name.to_owned(), None),
        };
        Ok(())
    }

    /// Whether there is any.
    pub fn is_empty(&self) -> bool {
        !self.all && self.named.is_empty()
    }

    /// The same as entitlements are written.
    pub fn written(&self) -> Vec<String> {
        let all = self.all.then(|| "device".to_owned());
        let named = self.named.iter().map(|(name, meant)| match meant {
            Some(meant) => format!("device={meant},alias={name}"),
            None => format!("device={name}"),
        });
        all.into_iter().chain(named).collect()
    }
}

impl Devices {
    /// The whole names of the devices that a step asks for, each once, if it may have them.
    ///
    /// # Errors
    /// [`Error::NotAllowed`] names all that it may not have; else as resolving does.
    pub fn grant<'n>(
        &self,
        asked: impl IntoIterator<Item = (&'n str, bool)>,
        grants: &Grants,
    ) -> Result<Vec<String>, Error> {
        let mut allowed = BTreeSet::new();
        for (name, meant) in grants.named.iter().filter(|_| !grants.all) {
            // An alias allows the device under that name only.
            if meant.is_none() {
                allowed.extend(self.resolve(name, true)?);
            }
        }
        let (mut names, mut refused): (Vec<String>, Vec<String>) = (Vec::new(), Vec::new());
        for (name, is_optional) in asked {
            let meant = grants.named.get(name).and_then(Option::as_deref);
            for found in self.resolve(meant.unwrap_or(name), is_optional)? {
                let may =
                    grants.all || meant.is_some() || allowed.contains(&found) || self.told(&found).is_auto_allowed;
                let list = if may { &mut names } else { &mut refused };
                if !list.contains(&found) {
                    list.push(found);
                }
            }
        }
        match refused.is_empty() {
            true => Ok(names),
            false => Err(Error::NotAllowed { names: refused }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::devices::tests::{devices, GPUS};
    use super::*;

    fn grants(texts: &[&str]) -> Grants {
        let mut grants = Grants::default();
        texts.iter().for_each(|text| grants.add(text).unwrap());
        grants
    }

    #[test]
    fn a_step_has_what_it_was_allowed() {
        let devices = devices(&[&[("gpus.yaml", &GPUS.replace("autoallow: true", "autoallow: no"))]], &[]);
        let ask = |names: &[&str], given: &[&str]| {
            let asked = names.iter().map(|name| (*name, false));
            devices.grant(asked, &grants(given)).map(|names| names.join(" ")).map_err(|error| error.to_string())
        };
        let one = ["v.com/gpu=a"];
        assert_eq!(ask(&one, &[""]).as_deref(), Ok("v.com/gpu=a"));
        assert_eq!(ask(&one, &["v.com/gpu=a"]).as_deref(), Ok("v.com/gpu=a"));
        assert_eq!(ask(&one, &["v.com/gpu=*"]).as_deref(), Ok("v.com/gpu=a"));
        assert_eq!(
            ask(&one, &["v.com/gpu=none"]).unwrap_err(),
            "device v.com/gpu=a is requested by the build but not allowed"
        );
        assert_eq!(
            ask(&["v.com/gpu=*"], &[]).unwrap_err(),
            "devices v.com/gpu=a, v.com/gpu=b are requested by the build but not allowed"
        );
        assert_eq!(
            ask(&["v.com/gpu=*"], &["v.com/gpu=b"]).unwrap_err(),
            "device v.com/gpu=a is requested by the build but not allowed"
        );
        // Under its own name it is not allowed by that.
        let alias = ["v.com/gpu=b,alias=app/gpu=any"];
        assert_eq!(ask(&["app/gpu=any"], &alias).as_deref(), Ok("v.com/gpu=b"));
        assert!(ask(&["v.com/gpu=b"], &alias).is_err());
        assert_eq!(ask(&["v.com/gpu=a", "v.com/gpu", "v.com/gpu=*"], &[""]).as_deref(), Ok("v.com/gpu=a v.com/gpu=b"));
        assert_eq!(devices.grant([("v.com/gpu=none", true)], &Grants::default()), Ok(vec![]));
    }

    #[test]
    fn grants_are_written_as_they_are_read() {
        let texts = ["", "v/c=a", "v/c=b,alias=x/y=z"];
        let written = grants(&texts).written();
        assert_eq!(written, ["device", "device=v/c=a", "device=v/c=b,alias=x/y=z"]);
        let again: Vec<&str> =
            written.iter().map(|text| text.trim_start_matches("device").trim_start_matches('=')).collect();
        assert_eq!(grants(&again), grants(&texts));
        assert!(Grants::default().add("v/c=a,x=1").unwrap_err().contains("unknown device config key"));
        assert!(Grants::default().add("v/c=a,x").unwrap_err().contains("invalid device config"));
    }
}
