//! Bills of materials (SBOM): a scanner, which is an image, looks at a result and says what is in it.
//!
//! The protocol between builder and scanner:
//! <https://github.com/moby/buildkit/blob/v0.29.0/docs/attestations/sbom-protocol.md>.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde_json::Value;
use solver::graph::op::{Meta, Mount, MountKind, RunOp, SourceOp};
use solver::graph::{ContentCache, GraphBuilder, Hints, NewVertex, Op, OutputIndex, OutputRef, Platform};

use super::error::BuildError;
use super::job::Job;
use super::outcome::Product;
use super::statements::{Place, Statements};
use crate::export::csv;

/// What a bill of materials is, as an address.
pub const PREDICATE: &str = "https://spdx.dev/Document";
/// The scanner of those who name none.
const GENERATOR: &str = "docker/buildkit-syft-scanner:stable-1";
/// Where a scanner finds what it looks at.
const SOURCES: &str = "/run/src";
/// Where it leaves what it says.
const DESTINATION: &str = "/run/out";

/// Which bill of materials is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sbom {
    /// The scanner's image.
    pub generator: String,
    /// What it is told, by names without `BUILDKIT_SCAN_`.
    pub parameters: BTreeMap<String, String>,
}

impl Sbom {
    /// Reads `generator=IMAGE,NAME=VALUE,…`; the empty text is the default.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Sbom, String> {
        let mut wanted = Sbom { generator: GENERATOR.to_owned(), parameters: BTreeMap::new() };
        let fields = if text.is_empty() { Vec::new() } else { csv::fields(text)? };
        for field in &fields {
            match field.split_once('=').unwrap_or((field, "")) {
                ("generator", "") => return Err("sbom generator cannot be empty".to_owned()),
                ("generator", image) => wanted.generator = image.to_owned(),
                ("type", "sbom") | ("disabled", "false") => {}
                ("disabled", _) => return Err("disabled stands alone, as disabled=true".to_owned()),
                (name, value) => drop(wanted.parameters.insert(name.to_owned(), value.to_owned())),
            }
        }
        Ok(wanted)
    }
}

impl fmt::Display for Sbom {
    /// Writes what [`Sbom::parse`] reads.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // As fields of comma-separated values have it.
        write!(f, "\"generator={}\"", self.generator.replace('"', "\"\""))?;
        self.parameters.iter().try_for_each(|(name, value)| {
            write!(f, ",\"{}={}\"", name.replace('"', "\"\""), value.replace('"', "\"\""))
        })
    }
}

/// How the scanner's image says it is run.
struct Scanner {
    source: SourceOp,
    args: Vec<String>,
    env: Vec<String>,
    cwd: String,
}

/// What a scanner will say of a product; it runs when that is read.
///
/// # Errors
/// The scanner cannot be had.
pub(super) async fn of(job: &Arc<Job>, wanted: &Sbom, product: &Product) -> Result<Statements, BuildError> {
    let scanner = scanner(job, &wanted.generator).await?;
    let name = format!("[{}] generating sbom using {}", product.platform, wanted.generator);
    let (trees, core) = (product.scans.values(), product.tree.as_ref());
    let all = core.into_iter().chain(trees);
    let anew = all.clone().any(|tree| tree.graph().vertices().iter().any(|vertex| vertex.hints.ignore_cache));
    let about =
        Hints { ignore_cache: anew, description: [("llb.customname".to_owned(), name)].into(), ..Hints::default() };
    let tree = job.made_of(all, |builder, outputs| {
        let mut outputs = outputs.into_iter();
        let core = core.and_then(|_| outputs.next());
        let extras = product.scans.keys().cloned().zip(outputs).collect();
        add(builder, scanner, &wanted.parameters, core, extras, about)
    })?;
    let place = Place::Bundle { path: "/".to_owned() };
    Ok(Statements { predicate_type: PREDICATE.to_owned(), place, tree: Some(tree), inline_only: false })
}

async fn scanner(job: &Job, generator: &str) -> Result<Scanner, BuildError> {
    let image = job.image(generator, &Platform::host(), "", None, []).await?;
    let config: Value = serde_json::from_slice(&image.config).unwrap_or_default();
    let list = |key: &str| -> Vec<String> {
        let all = config.pointer(&format!("/config/{key}")).and_then(Value::as_array);
        all.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let args = [list("Entrypoint"), list("Cmd")].concat();
    if args.is_empty() {
        return Err(BuildError::Refused(format!("scanner {generator} does not have cmd")));
    }
    let cwd = config.pointer("/config/WorkingDir").and_then(Value::as_str).unwrap_or_default().to_owned();
    Ok(Scanner { source: image.source, args, env: list("Env"), cwd })
}

/// Adds the scanner and its run; answers what it says.
fn add(
    builder: &mut GraphBuilder,
    scanner: Scanner,
    parameters: &BTreeMap<String, String>,
    core: Option<OutputRef>,
    extras: BTreeMap<String, OutputRef>,
    hints: Hints,
) -> OutputRef {
    let platform = Some(Platform::host());
    let image = builder.add(NewVertex {
        op: Op::Source(scanner.source),
        inputs: Vec::new(),
        platform: platform.clone(),
        hints: Hints::default(),
        origin: None,
    });
    let mut env = scanner.env;
    let mut set = |name: &str, value: &str| {
        env.retain(|known| known.split('=').next() != Some(name));
        env.push(format!("{name}={value}"));
    };
    for (name, value) in parameters {
        set(&format!("BUILDKIT_SCAN_{name}"), value);
    }
    set("BUILDKIT_SCAN_SOURCE", &format!("{SOURCES}/core/sbom"));
    set("BUILDKIT_SCAN_DESTINATION", &format!("{DESTINATION}/"));
    if !extras.is_empty() {
        set("BUILDKIT_SCAN_SOURCE_EXTRAS", &format!("{SOURCES}/extras/"));
    }
    let mut inputs = vec![OutputRef { vertex: image, output: OutputIndex(0) }];
    let mut mounts = vec![
        mount("/", Some(0), Some(0), MountKind::Bind),
        mount(DESTINATION, None, Some(1), MountKind::Bind),
        mount("/tmp", None, None, MountKind::Tmpfs { size: 0 }),
    ];
    let mut look_at = |dest: String, tree: Option<OutputRef>| {
        let input = tree.map(|tree| {
            inputs.push(tree);
            inputs.len() - 1
        });
        mounts.push(Mount { readonly: true, ..mount(&dest, input, None, MountKind::Bind) });
    };
    look_at(format!("{SOURCES}/core/sbom"), core);
    for (name, tree) in extras {
        look_at(format!("{SOURCES}/extras/sbom-{name}"), Some(tree));
    }
    mounts.sort_by(|a, b| a.dest.cmp(&b.dest));
    let meta =
        Meta { args: scanner.args, env, cwd: scanner.cwd, remove_mount_stubs_recursive: true, ..Meta::default() };
    let op = Op::Run(RunOp { meta: Box::new(meta), mounts, ..RunOp::default() });
    let vertex = builder.add(NewVertex { op, inputs, platform, hints, origin: None });
    OutputRef { vertex, output: OutputIndex(1) }
}

fn mount(dest: &str, input: Option<usize>, output: Option<u32>, kind: MountKind) -> Mount {
    let (selector, dest, output) = (String::new(), dest.to_owned(), output.map(OutputIndex));
    Mount { input, selector, dest, output, readonly: false, kind, content_cache: ContentCache::Default }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wanted_is_written_as_it_is_read() {
        let default = Sbom::parse("").unwrap();
        assert_eq!(default.generator, GENERATOR);
        let wanted = Sbom::parse("generator=a/b:1,\"LIST=x,y\",type=sbom,FLAG").unwrap();
        assert_eq!(wanted.generator, "a/b:1");
        assert_eq!(wanted.parameters["LIST"], "x,y");
        assert_eq!(wanted.parameters["FLAG"], "");
        for one in [default, wanted] {
            assert_eq!(Sbom::parse(&one.to_string()).unwrap(), one);
        }
        assert_eq!(Sbom::parse("generator=").unwrap_err(), "sbom generator cannot be empty");
        assert!(Sbom::parse("generator=a,disabled=true").is_err(), "nobody is scanned who does not want it");
    }
}
