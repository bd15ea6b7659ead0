//! What can be asked.

use serde::Serialize;

use super::table::table;
use super::{fine, SubResult};

#[derive(Serialize)]
struct Entry {
    name: &'static str,
    version: &'static str,
    #[serde(rename = "type")]
    kind: &'static str,
    description: &'static str,
    opts: Option<Vec<Named>>,
    inputs: Option<()>,
    metadata: [Named; 2],
    refs: Option<()>,
}

#[derive(Serialize)]
struct Named {
    name: &'static str,
    description: &'static str,
}

/// Lists the requests.
pub(super) fn describe() -> SubResult {
    let entry = |name, description, opts| Entry {
        name,
        version: "1.0.0",
        kind: "rpc",
        description,
        opts,
        inputs: None,
        metadata: ["result.json", "result.txt"].map(|name| Named { name, description: "" }),
        refs: None,
    };
    let target = Named { name: "target", description: "Target build stage" };
    let entries = [
        entry("frontend.outline", "List all parameters current build target supports", Some(vec![target])),
        entry("frontend.targets", "List all targets current build supports", Some(Vec::new())),
        entry("frontend.subrequests.describe", "List available subrequest types", None),
    ];
    let mut rows = vec![vec!["NAME".to_string(), "VERSION".into(), "DESCRIPTION".into()]];
    for entry in &entries {
        let name = entry.name.strip_prefix("frontend.").unwrap_or(entry.name);
        rows.push(vec![name.into(), entry.version.into(), entry.description.into()]);
    }
    fine(&entries, table(&rows, 1))
}
