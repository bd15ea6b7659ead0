//! The filters of containerd that clients select records with: `field==value`, `field!=value`, `field~=regex`, `field`.
//!
//! <https://github.com/containerd/containerd/blob/v2.1.0/pkg/filters/filter.go>. Commas are *and*, list elements *or*.

use regex::Regex;

/// A filter that makes no sense, in words.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Bad(pub String);

/// Longer ones are nobody's.
const LONGEST: usize = 16 << 10;

/// Selects records; without any condition it selects all.
#[derive(Debug, Default)]
pub struct Filter(Vec<Vec<Condition>>);

#[derive(Debug)]
struct Condition {
    field: String,
    test: Test,
}

#[derive(Debug)]
enum Test {
    Present,
    Equal(String),
    Other(String),
    Matches(Box<Regex>),
}

impl Filter {
    /// Reads filters as clients write them.
    ///
    /// # Errors
    /// The part that makes no sense.
    pub fn parse(filters: &[String]) -> Result<Filter, Bad> {
        let mut alternatives = Vec::new();
        for filter in filters.iter().filter(|filter| !filter.trim().is_empty()) {
            if filter.len() > LONGEST {
                return Err(Bad("a filter is too long".to_owned()));
            }
            alternatives.push(parts(filter)?.iter().map(|part| condition(part)).collect::<Result<_, _>>()?);
        }
        Ok(Filter(alternatives))
    }

    /// Every field that a condition is about.
    pub fn fields(&self) -> impl Iterator<Item = &str> {
        self.0.iter().flatten().map(|condition| condition.field.as_str())
    }

    /// Whether it selects everything.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a record is selected, whose fields `value` knows. A field that is absent or false is `None`.
    pub fn matches(&self, value: &dyn Fn(&str) -> Option<String>) -> bool {
        let holds = |condition: &Condition| {
            let found = value(&condition.field);
            match &condition.test {
                Test::Present => found.is_some_and(|found| !found.is_empty()),
                Test::Equal(wanted) => found.is_some_and(|found| found == *wanted),
                Test::Other(wanted) => found.is_none_or(|found| found != *wanted),
                Test::Matches(regex) => found.is_some_and(|found| regex.is_match(&found)),
            }
        };
        self.0.is_empty() || self.0.iter().any(|all| all.iter().all(holds))
    }
}

/// The parts between commas that are not quoted.
fn parts(filter: &str) -> Result<Vec<String>, Bad> {
    let (mut all, mut part, mut quoted, mut escaped) = (Vec::new(), String::new(), false, false);
    for c in filter.chars() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            ',' if !quoted => {
                all.push(std::mem::take(&mut part));
                continue;
            }
            _ => {}
        }
        part.push(c);
    }
    match quoted {
        true => Err(Bad(format!("filter {filter:?}: a quote is not closed"))),
        false => {
            all.push(part);
            Ok(all)
        }
    }
}

fn condition(part: &str) -> Result<Condition, Bad> {
    let part = part.trim();
    let bad = |why: &str| Bad(format!("filter {part:?}: {why}"));
    let at = ["==", "!=", "~="].iter().filter_map(|sign| part.find(sign).map(|at| (at, *sign))).min();
    let Some((at, sign)) = at else {
        let is_field = !part.is_empty() && !part.contains(['=', '<', '>', '!', '~']);
        return match is_field {
            true => Ok(Condition { field: part.to_string(), test: Test::Present }),
            false => Err(bad("want field==value, field!=value, field~=regex or a field")),
        };
    };
    let (field, value) = (part.get(..at).unwrap_or_default(), part.get(at + 2..).unwrap_or_default());
    if field.is_empty() {
        return Err(bad("there is no field"));
    }
    let value = match value.strip_prefix('"').and_then(|value| value.strip_suffix('"')) {
        Some(quoted) => quoted.replace("\\\"", "\"").replace("\\\\", "\\"),
        None => value.to_string(),
    };
    let test = match sign {
        "==" => Test::Equal(value),
        "!=" => Test::Other(value),
        _ => Test::Matches(Box::new(Regex::new(&value).map_err(|e| bad(&e.to_string()))?)),
    };
    Ok(Condition { field: field.to_string(), test })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_select() {
        let value = |field: &str| match field {
            "id" => Some("abc".to_string()),
            "type" => Some("regular".to_string()),
            "shared" => Some("true".to_string()),
            _ => None,
        };
        for (filters, want) in [
            (vec![], true),
            (vec!["id==abc"], true),
            (vec!["id==\"abc\""], true),
            (vec!["id==x"], false),
            (vec!["id!=x,type==regular"], true),
            (vec!["id==x", "type==regular"], true),
            (vec!["id~=^a.c$"], true),
            (vec!["id~=z"], false),
            (vec!["shared"], true),
            (vec!["private"], false),
            (vec!["private!=true"], true),
        ] {
            let filters: Vec<String> = filters.into_iter().map(str::to_string).collect();
            assert_eq!(Filter::parse(&filters).unwrap().matches(&value), want, "{filters:?}");
        }
        for bad in ["id~=(", "==x", "id==\"x", "a<b", "id=x"] {
            assert!(Filter::parse(&[bad.to_string()]).is_err(), "{bad}");
        }
    }
}
