//! What of a graph cannot be served: known before anything runs, so that nothing is built of what ends in a refusal.
//!
//! Fields that BuildKit does not look at either are not looked at here: a mount's `resultID` and the selectors of mounts
//! without files (LLB), `local.unique` (sources), and attributes that nobody knows.

use solver::graph::op::{MountKind, Network, RunOp, Security, SourceOp};
use solver::graph::{Graph, LinuxResources, Op, Vertex};

use super::request::Entitlements;
use super::steps::StepFailure;
use crate::source::blob;

/// The first vertex that cannot be served to whoever has these rights, and why not.
pub(crate) fn first(graph: &Graph, given: Entitlements) -> Option<(&Vertex, StepFailure)> {
    graph.vertices().iter().find_map(|vertex| Some((vertex, of_vertex(vertex, given)?)))
}

fn of_vertex(vertex: &Vertex, given: Entitlements) -> Option<StepFailure> {
    match &vertex.op {
        // Asked again where a process's spec is made: here it is only sooner.
        Op::Run(run) if run.network == Network::Host && !given.network_host => {
            return Some(StepFailure::NotEntitled("network.host"));
        }
        Op::Run(run) if run.security == Security::Insecure && !given.security_insecure => {
            return Some(StepFailure::NotEntitled("security.insecure"));
        }
        Op::Run(run) => of_run(run).or_else(|| vertex.hints.resources.as_ref().and_then(of_resources)),
        Op::Source(source) => return of_source(source),
        // A definition has been put in its place.
        Op::Build(_) => Some("a definition in an input as a step"),
        Op::File(_) | Op::Merge(_) | Op::Diff(_) | Op::Passthrough(_) => None,
    }
    .map(StepFailure::Unsupported)
}

fn of_run(run: &RunOp) -> Option<&'static str> {
    let is_kept_memory = run.mounts.iter().any(|mount| {
        let is_memory = matches!(mount.kind, MountKind::Tmpfs { .. });
        is_memory && mount.output.is_some()
    });
    [
        (!run.meta.cgroup_parent.is_empty(), "a parent for the control groups of steps (cgroup-parent)"),
        (!run.devices.is_empty(), "devices in steps (CDI)"),
        (is_kept_memory, "a tmpfs mount as an output of a step"),
    ]
    .into_iter()
    .find_map(|(is_asked, what)| is_asked.then_some(what))
}

fn of_resources(limits: &LinuxResources) -> Option<&'static str> {
    let LinuxResources { memory, memory_swap, cpu_shares, cpu_period, cpu_quota, cpuset_cpus, cpuset_mems } = limits;
    [
        (*memory != 0, "a limit of a step's memory (memory)"),
        (*memory_swap != 0, "a limit of a step's swap (memory-swap)"),
        (*cpu_shares != 0, "a weight of a step's CPU time (cpu-shares)"),
        (*cpu_period != 0, "a limit of a step's CPU time (cpu-period)"),
        (*cpu_quota != 0, "a limit of a step's CPU time (cpu-quota)"),
        (!cpuset_cpus.is_empty(), "a choice of CPUs for a step (cpuset-cpus)"),
        (!cpuset_mems.is_empty(), "a choice of memory nodes for a step (cpuset-mems)"),
    ]
    .into_iter()
    .find_map(|(is_asked, what)| is_asked.then_some(what))
}

fn of_source(source: &SourceOp) -> Option<StepFailure> {
    match source.scheme() {
        "docker-image" | "local" | "git" | "http" | "https" | "oci-layout" | blob::REGISTRY | blob::LAYOUT => None,
        other => Some(StepFailure::UnknownScheme { scheme: other.chars().take(100).collect() }),
    }
}

#[cfg(test)]
mod tests {
    use solver::graph::op::{CdiDevice, Meta, Mount};
    use solver::graph::{ContentCache, GraphBuilder, Hints, NewVertex, OutputIndex, OutputRef};

    use super::*;

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
        let mut run = RunOp { meta, mounts: vec![mount("/", MountKind::Bind, 0)], ..RunOp::default() };
        change(&mut run);
        Op::Run(run)
    }

    fn source(identifier: &str, name: &str, value: &str) -> Op {
        Op::Source(SourceOp { identifier: identifier.into(), attrs: [(name.into(), value.into())].into() })
    }

    #[test]
    fn what_cannot_be_served_is_refused_by_name() {
        let device = CdiDevice { name: "vendor/class=one".into(), optional: true };
        for (op, want) in [
            (run(|run| run.meta.cgroup_parent = "/p".into()), "cgroup-parent"),
            (run(|run| run.devices.push(device)), "CDI"),
            (run(|run| run.mounts.push(mount("/t", MountKind::Tmpfs { size: 0 }, 1))), "tmpfs"),
            (source("ftp://a", "", ""), "unknown source scheme \"ftp\""),
            (source("a", "", ""), "unknown source scheme \"\""),
        ] {
            let graph = graph(op, Hints::default());
            let (_, failure) = first(&graph, Entitlements::default()).expect(want);
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
            assert!(first(&graph(op, Hints::default()), Entitlements::default()).is_none());
        }
    }

    #[test]
    fn rights_are_asked_for_before_anything_runs() {
        let all = Entitlements { network_host: true, security_insecure: true };
        for (op, name, less) in [
            (run(|run| run.network = Network::Host), "network.host", Entitlements { network_host: false, ..all }),
            (
                run(|run| run.security = Security::Insecure),
                "security.insecure",
                Entitlements { security_insecure: false, ..all },
            ),
        ] {
            let graph = graph(op, Hints::default());
            assert_eq!(first(&graph, less).unwrap().1.to_string(), format!("{name} is not allowed"));
            assert!(first(&graph, all).is_none());
        }
    }

    #[test]
    fn every_limit_of_a_steps_control_group_is_refused() {
        type Change = fn(&mut LinuxResources);
        let changes: [(Change, &str); 7] = [
            (|limits| limits.memory = 1, "(memory)"),
            (|limits| limits.memory_swap = -1, "memory-swap"),
            (|limits| limits.cpu_shares = 1, "cpu-shares"),
            (|limits| limits.cpu_period = 1, "cpu-period"),
            (|limits| limits.cpu_quota = 1, "cpu-quota"),
            (|limits| limits.cpuset_cpus = "0".into(), "cpuset-cpus"),
            (|limits| limits.cpuset_mems = "0".into(), "cpuset-mems"),
        ];
        let limited = |limits| graph(run(|_| ()), Hints { resources: Some(limits), ..Hints::default() });
        for (change, want) in changes {
            let mut limits = LinuxResources::default();
            change(&mut limits);
            let graph = limited(limits);
            let (_, failure) = first(&graph, Entitlements::default()).expect(want);
            assert!(failure.to_string().contains(want), "{failure}, not {want}");
        }
        assert!(first(&limited(LinuxResources::default()), Entitlements::default()).is_none());
    }
}
