//! What of a graph cannot be served: known before anything runs, so that nothing is built of what ends in a refusal.
//!
//! Fields that BuildKit does not look at either are not looked at here: a mount's `resultID` and the selectors of mounts
//! without files (LLB), `local.unique` (sources), and attributes that nobody knows.

use solver::graph::op::{Network, Security, SourceOp};
use solver::graph::{Graph, Op, Vertex};

use super::request::Entitlements;
use super::steps::{self, StepFailure};
use crate::cdi;
use crate::source::blob;

/// The first vertex that cannot be served to whoever has these rights, and why not.
pub(crate) fn first<'g>(
    graph: &'g Graph,
    given: &Entitlements,
    devices: &cdi::Config,
) -> Option<(&'g Vertex, StepFailure)> {
    graph.vertices().iter().find_map(|vertex| Some((vertex, of_vertex(vertex, given, devices)?)))
}

fn of_vertex(vertex: &Vertex, given: &Entitlements, devices: &cdi::Config) -> Option<StepFailure> {
    match &vertex.op {
        // Asked again where a process's spec is made: here it is only sooner.
        Op::Run(run) if run.network == Network::Host && !given.network_host => {
            return Some(StepFailure::NotEntitled("network.host"));
        }
        Op::Run(run) if run.security == Security::Insecure && !given.security_insecure => {
            return Some(StepFailure::NotEntitled("security.insecure"));
        }
        Op::Run(run) => {
            let limits = steps::limits(run, &vertex.hints).err();
            return limits.or_else(|| steps::edits(run, devices, &given.devices).err());
        }
        Op::Source(source) => return of_source(source),
        // A definition has been put in its place.
        Op::Build(_) => Some("a definition in an input as a step"),
        Op::File(_) | Op::Merge(_) | Op::Diff(_) | Op::Passthrough(_) => None,
    }
    .map(StepFailure::Unsupported)
}

fn of_source(source: &SourceOp) -> Option<StepFailure> {
    match source.scheme() {
        "docker-image" | "local" | "git" | "http" | "https" | "oci-layout" | blob::REGISTRY | blob::LAYOUT => None,
        other => Some(StepFailure::UnknownScheme { scheme: other.chars().take(100).collect() }),
    }
}

#[cfg(test)]
mod tests {
    use solver::graph::op::{CdiDevice, Meta, Mount, MountKind, RunOp};
    use solver::graph::{ContentCache, GraphBuilder, Hints, LinuxResources, NewVertex, OutputIndex, OutputRef};

    use super::*;

    fn refused<'g>(graph: &'g Graph, given: &Entitlements) -> Option<(&'g Vertex, StepFailure)> {
        first(graph, given, &cdi::Config { directories: Vec::new(), ..cdi::Config::default() })
    }

    fn graph(op: Op, hints: Hints) -> Graph {
        let mut graph = GraphBuilder::new();
        let vertex = graph.add(NewVertex { op, inputs: Vec::new(), platform: None, hints, origin: None });
        graph.finish(vec![OutputRef { vertex, output: OutputIndex(0) }]).unwrap()
    }

    fn mount(dest: &str, kind: MountKind, output: u32) -> Mount {
        let (input, selector, content_cache) = (None, String::new(), ContentCache::Default);
        Mount {
            input,
            selector,
            dest: dest.into(),
            output: Some(OutputIndex(output)),
            readonly: false,
            kind,
            content_cache,
        }
    }

    fn run(change: impl FnOnce(&mut RunOp)) -> Op {
        let meta = Meta { args: vec!["true".into()], ..Meta::default() };
        let mut run = RunOp { meta: meta.into(), mounts: vec![mount("/", MountKind::Bind, 0)], ..RunOp::default() };
        change(&mut run);
        Op::Run(run)
    }

    fn source(identifier: &str, name: &str, value: &str) -> Op {
        Op::Source(SourceOp { identifier: identifier.into(), attrs: [(name.into(), value.into())].into() })
    }

    #[test]
    fn what_cannot_be_served_is_refused_by_name() {
        let device = |name: &str| CdiDevice { name: name.into(), optional: false };
        for (op, want) in [
            (run(|run| run.devices.push(device("vendor/class=one"))), "\"vendor/class=one\" is not registered"),
            (run(|run| run.devices.push(device("/dev/fuse"))), "invalid device \"/dev/fuse\""),
            (source("ftp://a", "", ""), "unknown source scheme \"ftp\""),
            (source("a", "", ""), "unknown source scheme \"\""),
        ] {
            let graph = graph(op, Hints::default());
            let (_, failure) = refused(&graph, &Entitlements::default()).expect(want);
            assert!(failure.to_string().contains(want), "{failure}, not {want}");
        }
        for op in [
            run(|_| ()),
            source("docker-image://a", "image.checksum", "sha256:0"),
            source("docker-image://a", "image.layerlimit", "1"),
            source("docker-image+blob://a@sha256:0", "", ""),
            source("oci-layout+blob://a@sha256:0", "", ""),
            source("local://a", "new", "1"),
            source("oci-layout://a@sha256:0", "oci.layerlimit", "1"),
        ] {
            assert!(refused(&graph(op, Hints::default()), &Entitlements::default()).is_none());
        }
    }

    #[test]
    fn rights_are_asked_for_before_anything_runs() {
        let all = Entitlements { network_host: true, security_insecure: true, ..Entitlements::default() };
        for (op, name, less) in [
            (
                run(|run| run.network = Network::Host),
                "network.host",
                Entitlements { network_host: false, ..all.clone() },
            ),
            (
                run(|run| run.security = Security::Insecure),
                "security.insecure",
                Entitlements { security_insecure: false, ..all.clone() },
            ),
        ] {
            let graph = graph(op, Hints::default());
            assert_eq!(refused(&graph, &less).unwrap().1.to_string(), format!("{name} is not allowed"));
            assert!(refused(&graph, &all).is_none());
        }
    }

    #[test]
    fn limits_that_make_no_sense_are_refused_before_anything_runs() {
        let limited = |limits| graph(run(|_| ()), Hints { resources: Some(limits), ..Hints::default() });
        let refused = |graph: &Graph| refused(graph, &Entitlements::default()).map(|(_, failure)| failure.to_string());
        let swap = LinuxResources { memory: 2, memory_swap: 1, ..LinuxResources::default() };
        assert!(refused(&limited(swap)).unwrap().contains("memory-swap 1"));
        let some = LinuxResources { memory: 1 << 20, cpuset_cpus: "0".into(), ..LinuxResources::default() };
        assert_eq!(refused(&limited(some)), None);
        let parent = graph(run(|run| run.meta.cgroup_parent = "/a/../..".into()), Hints::default());
        assert!(refused(&parent).unwrap().contains("leads out"));
    }
}
