//! The value of `RUN --device`: a device's name, and whether there must be one.

use super::mount::comma_separated;
use crate::ast::Device;
use crate::diagnostic::Diagnostic;
use crate::source::Spanned;

/// The keys a device may have.
const KEYS: [&str; 2] = ["name", "required"];

/// Reads the value of one `--device`: `NAME[,required]` or `name=NAME,required=true`. A name may itself have a `=`.
pub(super) fn device(value: &Spanned, diagnostics: &mut Vec<Diagnostic>) -> Option<Device> {
    match read(&value.text) {
        Ok(device) => Some(device),
        Err((message, unknown)) => {
            let error = Diagnostic::error("invalid-device", value.span, message);
            diagnostics.push(match unknown {
                Some(key) => error.suggesting(&key, KEYS),
                None => error,
            });
            None
        }
    }
}

/// The device, or what is wrong and the key that nobody knows.
fn read(text: &str) -> Result<Device, (String, Option<String>)> {
    let wrong = |message: String| Err((message, None));
    let Some(fields) = comma_separated(text) else {
        return wrong(format!("invalid device {}: a quote is out of place", crate::ast::quote(text)));
    };
    let mut device = Device::default();
    for field in fields {
        let (key, given) = match field.split_once('=') {
            Some((key, given)) => (key.to_lowercase(), Some(given)),
            None => (field.to_lowercase(), None),
        };
        match (key.as_str(), given) {
            ("required", None) => device.required = true,
            ("required", Some("1" | "t" | "T" | "true" | "TRUE" | "True")) => device.required = true,
            ("required", Some("0" | "f" | "F" | "false" | "FALSE" | "False")) => device.required = false,
            ("required", Some(other)) => return wrong(format!("invalid value for required: {other}")),
            ("name", Some(_)) if !device.name.is_empty() => {
                return wrong(format!("device name already set to {}", device.name));
            }
            ("name", Some(name)) => device.name = name.to_string(),
            _ if device.name.is_empty() => device.name = field,
            (_, None) => return wrong(format!("invalid field '{field}' must be a key=value pair")),
            (key, Some(_)) => return Err((format!("unexpected key '{key}' in '{field}'"), Some(key.to_string()))),
        }
    }
    match device.name.is_empty() {
        true => wrong("device name is missing".to_string()),
        false => Ok(device),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_has_a_name_and_may_be_required() {
        let read = |text: &str| read(text).map(|device| (device.name, device.required)).map_err(|(message, _)| message);
        let ok = |name: &str, required: bool| Ok((name.to_string(), required));
        assert_eq!(read("v.com/gpu=0"), ok("v.com/gpu=0", false));
        assert_eq!(read("v.com/gpu,required"), ok("v.com/gpu", true));
        assert_eq!(read("required,v.com/gpu=*"), ok("v.com/gpu=*", true));
        assert_eq!(read("name=v.com/gpu=0,required=true"), ok("v.com/gpu=0", true));
        assert_eq!(read("name=v.com/gpu,required=0"), ok("v.com/gpu", false));
        for (text, want) in [
            ("a,name=b", "device name already set to a"),
            ("a,b", "invalid field 'b' must be a key=value pair"),
            ("a,requird=1", "unexpected key 'requird' in 'requird=1'"),
            ("a,required=maybe", "invalid value for required: maybe"),
            ("required", "device name is missing"),
            ("", "device name is missing"),
            ("a\"", "a quote is out of place"),
        ] {
            let said = read(text).unwrap_err();
            assert!(said.contains(want), "{text:?}: {said}");
        }
    }
}
