//! Steps as definitions describe them, with every field that a Dockerfile cannot write: what they do, and what is refused.

use prost::Message;
use rbuild::wire::proto::control::SolveRequest;
use rbuild::wire::proto::gateway::llb_bridge_client::LlbBridgeClient;
use rbuild::wire::proto::gateway::result::Result as Shape;
use rbuild::wire::proto::gateway::{self, ReadDirRequest, ReadFileRequest};
use solver::graph::VertexId;
use solver::llb::pb;
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::api::within;
use super::fixture::Daemon;

/// A step on busybox: its words, what is said beside it, and which of its outputs is meant.
struct Step {
    op: pb::ExecOp,
    said: pb::OpMetadata,
    output: i64,
}

impl Step {
    fn shell(script: &str) -> Step {
        let args = ["/bin/sh", "-c", script].map(str::to_owned).to_vec();
        let meta = pb::Meta { args, cwd: "/".into(), remove_mount_stubs_recursive: true, ..Default::default() };
        let root = pb::Mount { input: 0, dest: "/".into(), output: 0, ..Default::default() };
        let op = pb::ExecOp { meta: Some(meta), mounts: vec![root], network: 2, ..Default::default() };
        Step { op, said: pb::OpMetadata::default(), output: 0 }
    }

    fn meta(mut self, change: impl FnOnce(&mut pb::Meta)) -> Step {
        self.op.meta.iter_mut().take(1).next().map(change);
        self
    }

    fn with(mut self, change: impl FnOnce(&mut Step)) -> Step {
        change(&mut self);
        self
    }

    fn mount(mut self, mount: pb::Mount) -> Step {
        self.op.mounts.push(mount);
        self
    }

    fn definition(self) -> pb::Definition {
        let identifier = "docker-image://docker.io/library/busybox:latest".into();
        let attrs = vec![pb::AttrEntry { key: Some("image.resolvemode".into()), value: Some("local".into()) }];
        let base = pb::Op { op: Some(pb::OpKind::Source(pb::SourceOp { identifier, attrs })), ..Default::default() };
        let base = base.encode_to_vec();
        let input = pb::Input { digest: VertexId::of(&base).to_string(), index: 0 };
        let exec = pb::Op { inputs: vec![input], op: Some(pb::OpKind::Exec(self.op)), ..Default::default() };
        let exec = exec.encode_to_vec();
        let digest = VertexId::of(&exec).to_string();
        let end = pb::Input { digest: digest.clone(), index: self.output };
        let end = pb::Op { inputs: vec![end], ..Default::default() }.encode_to_vec();
        pb::Definition { def: vec![base, exec, end], metadata: [(digest, self.said)].into(), source: None }
    }
}

/// A build whose frontend is the test.
struct Builder {
    bridge: LlbBridgeClient<Channel>,
    _solving: tokio::task::JoinHandle<()>,
    daemon: Daemon,
}

impl Builder {
    async fn start() -> Option<Builder> {
        Builder::of(Daemon::start()?, &[]).await
    }

    async fn of(daemon: Daemon, entitlements: &[&str]) -> Option<Builder> {
        let mut control = daemon.control().await;
        let entitlements = entitlements.iter().map(|name| name.to_string()).collect();
        let request = SolveRequest { r#ref: "b".into(), entitlements, ..Default::default() };
        let solving = tokio::spawn(async move { drop(control.solve(request).await) });
        Some(Builder { bridge: LlbBridgeClient::new(daemon.channel().await), _solving: solving, daemon })
    }

    async fn run(&mut self, step: Step) -> Result<Made, Status> {
        let request = gateway::SolveRequest {
            definition: Some(step.definition()),
            allow_result_return: true,
            allow_result_array_ref: true,
            evaluate: true,
            ..Default::default()
        };
        let solved = self.bridge.solve(within("b", request)).await?.into_inner();
        let Some(Shape::Ref(made)) = solved.result.and_then(|result| result.result) else { panic!("one result") };
        Ok(Made { bridge: self.bridge.clone(), id: made.id })
    }

    /// What a step writes to `/out`.
    async fn out(&mut self, step: Step) -> String {
        self.run(step).await.unwrap().read("out").await
    }

    /// The sentence with which a step fails.
    async fn refusal(&mut self, step: Step) -> (Code, String) {
        match self.run(step).await {
            Ok(_) => panic!("it did not fail"),
            Err(status) => (status.code(), status.message().to_owned()),
        }
    }
}

/// A result.
struct Made {
    bridge: LlbBridgeClient<Channel>,
    id: String,
}

impl Made {
    async fn read(&mut self, path: &str) -> String {
        let read = ReadFileRequest { r#ref: self.id.clone(), file_path: path.into(), ..Default::default() };
        let data = self.bridge.read_file(within("b", read)).await.unwrap().into_inner().data;
        String::from_utf8(data).unwrap()
    }

    async fn list(&mut self, path: &str) -> Vec<String> {
        let list = ReadDirRequest { r#ref: self.id.clone(), dir_path: path.into(), ..Default::default() };
        let entries = self.bridge.read_dir(within("b", list)).await.unwrap().into_inner().entries;
        entries.into_iter().map(|entry| entry.path).collect()
    }
}

fn mount(dest: &str, kind: i32) -> pb::Mount {
    pb::Mount { input: -1, dest: dest.into(), output: -1, mount_type: kind, ..Default::default() }
}

const TMPFS: i32 = 4;
const CACHE: i32 = 3;

#[tokio::test(flavor = "multi_thread")]
async fn every_output_is_what_its_mount_leaves() {
    let Some(mut builder) = Builder::start().await else { return };
    // What is in memory or in a cache is in no result: the output is what the mount began with.
    for (dest, kind) in [("/mem", TMPFS), ("/cache", CACHE)] {
        for input in [-1, 0] {
            let script = format!("[ -d {dest} ] && echo gone > {dest}/file; echo kept > /out");
            let step = Step::shell(&script).mount(pb::Mount {
                input,
                output: 1,
                cache_opt: (kind == CACHE).then(|| pb::CacheOpt { id: format!("c{input}"), sharing: 0 }),
                ..mount(dest, kind)
            });
            let mut made = builder.run(step.with(|step| step.output = 1)).await.unwrap();
            let listed = made.list("/").await;
            assert!(!listed.contains(&"file".to_owned()), "{dest} {input}: {listed:?}");
            assert_eq!(listed.contains(&"bin".to_owned()), input == 0, "{dest} {input}: {listed:?}");
        }
    }
    // Their numbers need not be in the order of the mounts, and do not shift each other.
    let step = || {
        Step::shell("echo root > /out; echo bound > /bind/out; echo memory > /mem/out")
            .mount(pb::Mount { output: 0, ..mount("/mem", TMPFS) })
            .mount(pb::Mount { output: 1, ..mount("/bind", 0) })
            .with(|step| step.op.mounts[0].output = 2)
    };
    for (output, want) in [(2, "root\n"), (1, "bound\n")] {
        assert_eq!(builder.out(step().with(|step| step.output = output)).await, want);
    }
    assert_eq!(builder.run(step()).await.unwrap().list("/").await, [""; 0]);
    // A read-only mount gives back what it got, the root too, and mount points can be made in it all the same.
    let step = Step::shell("touch /x || [ -f /etc/hosts ]").with(|step| step.op.mounts[0].readonly = true);
    let listed = builder.run(step.mount(mount("/new/mem", TMPFS))).await.unwrap().list("/").await;
    assert!(!listed.contains(&"new".to_owned()) && listed.contains(&"bin".to_owned()), "{listed:?}");
    let own = pb::Mount { output: 1, readonly: true, ..mount("/empty", 0) };
    let step = Step::shell("touch /empty/x || echo ro > /out").mount(own).with(|step| step.output = 1);
    assert_eq!(builder.run(step).await.unwrap().list("/").await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn directories_above_mount_points_stay_when_they_are_to() {
    let Some(mut builder) = Builder::start().await else { return };
    let step = |recursive| {
        let step = Step::shell("true").mount(mount("/new/deep/mem", TMPFS)).mount(mount("/bin/here", TMPFS));
        step.meta(|meta| meta.remove_mount_stubs_recursive = recursive)
    };
    let mut all = builder.run(step(true)).await.unwrap();
    assert!(!all.list("/").await.contains(&"new".to_owned()));
    let mut leaf = builder.run(step(false)).await.unwrap();
    assert_eq!((leaf.list("/new").await, leaf.list("/new/deep").await), (vec!["deep".to_owned()], vec![]));
    assert!(!leaf.list("/bin").await.contains(&"here".to_owned()));
    // What the step has put there on purpose stays in any case.
    let used =
        step(true).with(|step| step.op.meta.iter_mut().for_each(|meta| meta.args[2] = "touch /new/deep/x".into()));
    assert_eq!(builder.run(used).await.unwrap().list("/new/deep").await, ["x"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_process_is_comes_from_its_fields() {
    let Some(mut builder) = Builder::start().await else { return };
    let hosts = Step::shell("grep -E 'one|two' /etc/hosts > /out; hostname >> /out").meta(|meta| {
        let host = |host: &str, ip: &str| pb::HostIp { host: host.into(), ip: ip.into() };
        meta.extra_hosts = vec![host("one", "10.0.0.1"), host("two", "fe80::1")];
        meta.hostname = "box".into();
    });
    assert_eq!(builder.out(hosts).await, "10.0.0.1\tone\nfe80::1\ttwo\nbox\n");
    let limits =
        Step::shell("ulimit -n > /out; ulimit -Hn >> /out; ulimit -c >> /out; ulimit -u >> /out").meta(|meta| {
            let limit = |name: &str, soft, hard| pb::Ulimit { name: name.into(), soft, hard };
            meta.ulimit = vec![limit("nofile", 100, 200), limit("core", -1, -1), limit("nproc", 77, i64::MAX)];
        });
    let core = rustix::process::getrlimit(rustix::process::Resource::Core).maximum;
    let core = core.map_or("unlimited".to_owned(), |bytes| (bytes / 512).to_string());
    assert_eq!(builder.out(limits).await, format!("100\n200\n{core}\n77\n"), "{core}");
    let proxy = Step::shell("env | grep -i _proxy | sort > /out").meta(|meta| {
        meta.env = vec!["PATH=/bin".into(), "http_proxy=mine".into()];
        let proxy = |text: &str| text.to_owned();
        meta.proxy_env = Some(pb::ProxyEnv {
            http_proxy: proxy("h"),
            https_proxy: proxy("s"),
            no_proxy: proxy("n"),
            all_proxy: proxy("a"),
            ftp_proxy: String::new(),
        });
    });
    let want =
        "ALL_PROXY=a\nHTTPS_PROXY=s\nHTTP_PROXY=h\nNO_PROXY=n\nall_proxy=a\nhttp_proxy=h\nhttps_proxy=s\nno_proxy=n\n";
    assert_eq!(builder.out(proxy).await, want);
    let secret = Step::shell("echo \"[$NONE]\" > /out").with(|step| {
        step.op.secretenv = vec![pb::SecretEnv { id: "none".into(), name: "NONE".into(), optional: true }];
    });
    assert_eq!(builder.out(secret).await, "[]\n");
    for codes in [vec![7], vec![0, 7], vec![-1, 7, i32::MAX]] {
        let step = Step::shell("echo failed > /out; exit 7").meta(|meta| meta.valid_exit_codes = codes.clone());
        assert_eq!(builder.out(step).await, "failed\n", "{codes:?}");
    }
    let limited = Step::shell("grep Cpus_allowed_list /proc/self/status | cut -f2 > /out").with(|step| {
        step.said.linux_resources =
            Some(pb::LinuxResources { cpuset_cpus: "0".into(), memory: 1 << 28, ..Default::default() });
        step.said.caps = [("exec.meta.linux.resources".to_owned(), true)].into();
    });
    assert_eq!(builder.out(limited).await, "0\n");
    // Another content of what counts by content is another step; what does not count is the same one.
    for (cache, count) in [(0, 2), (1, 2), (2, 2)] {
        let bound =
            pb::Mount { input: 0, readonly: true, selector: "/etc".into(), content_cache: cache, ..mount("/in", 0) };
        let step = Step::shell("ls /in/passwd /in/group | wc -l > /out").mount(bound);
        assert_eq!(builder.out(step).await, format!("{count}\n"), "{cache}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn values_that_make_no_sense_are_refused_and_nothing_is_harmed() {
    let Some(mut builder) = Builder::start().await else { return };
    let shell = || Step::shell("echo fine > /out");
    let limited = |limits| shell().with(|step| step.said.linux_resources = Some(limits));
    let ulimit = |name: &str, soft, hard| {
        let limit = pb::Ulimit { name: name.into(), soft, hard };
        shell().meta(|meta| meta.ulimit = vec![limit])
    };
    let secret = |id: &str, name: &str, optional| {
        let secret = pb::SecretEnv { id: id.into(), name: name.into(), optional };
        shell().with(|step| step.op.secretenv = vec![secret])
    };
    let host = |host: &str, ip: &str| {
        let host = pb::HostIp { host: host.into(), ip: ip.into() };
        shell().meta(|meta| meta.extra_hosts = vec![host])
    };
    let device = |name: &str, optional| {
        let device = pb::CdiDevice { name: name.into(), optional };
        shell().with(|step| step.op.cdi_devices = vec![device])
    };
    let selected = |selector: &str| {
        shell().mount(pb::Mount { input: 0, selector: selector.into(), output: 1, content_cache: 1, ..mount("/in", 0) })
    };
    let table = [
        (limited(pb::LinuxResources { memory: i64::MIN, ..Default::default() }), "memory -9223372036854775808: want"),
        (limited(pb::LinuxResources { memory_swap: 5, ..Default::default() }), "memory-swap 5: want"),
        (limited(pb::LinuxResources { cpu_period: u64::MAX, ..Default::default() }), "cpu-period 18446744073709551615"),
        (limited(pb::LinuxResources { cpuset_cpus: "0-".into(), ..Default::default() }), "cpuset-cpus 0-: want"),
        (shell().meta(|meta| meta.cgroup_parent = "/../../etc".into()), "leads out of the control groups"),
        (shell().meta(|meta| meta.cgroup_parent = "x".repeat(100_000)), "is no path of a control group"),
        (ulimit("files", 1, 1), "ulimit files: there is no such limit"),
        (ulimit("nofile", 2, 1), "ulimit nofile=2:1: want a soft limit not above the hard one"),
        (ulimit("core", -1, 5), "ulimit core=-1:5: want"),
        (ulimit("", 1, 1), "ulimit : there is no such limit"),
        (secret("s", "S", false), "secret s: not found"),
        (secret("", "S", false), "secret ID missing for \"S\" environment variable"),
        (secret("", "S", true), "secret ID missing for \"S\" environment variable"),
        (secret("s", "A=B", true), "\"A=B\" is no name of an environment variable"),
        (secret("s", "", true), "\"\" is no name of an environment variable"),
        (secret("s", "A\0B", true), "is no name of an environment variable"),
        (host("h", "999.1.1.1"), "999.1.1.1 is not an IP address"),
        (host("h x", "10.0.0.1"), "\"h x\" is not a host name"),
        (host("h\n10.0.0.2 google.com", "10.0.0.1"), "is not a host name"),
        (shell().meta(|meta| meta.hostname = "h".repeat(65)), "set the host name"),
        (device("vendor.com/class=none", false), "required device \"vendor.com/class=none\" is not registered"),
        (device("/dev/null", true), "invalid device \"/dev/null\""),
        (device("", true), "invalid device \"\""),
        (Step::shell("exit 7").meta(|meta| meta.valid_exit_codes = vec![0, 8]), "exit code: 7"),
        (Step::shell("true").meta(|meta| meta.valid_exit_codes = vec![7]), "exit code: 0"),
        (selected("/etc"), "invalid mount cache content"),
        (
            shell().with(|step| step.said.caps = [("exec.meta.network.proxy".to_owned(), true)].into()),
            "exec.meta.network.proxy",
        ),
        (shell().with(|step| step.said.caps = [("exec.cgroup".to_owned(), true)].into()), "exec.cgroup"),
    ];
    for (step, want) in table {
        let (_, said) = builder.refusal(step).await;
        assert!(said.contains(want), "{said}, not {want}");
        assert!(said.len() < 2000, "{} bytes", said.len());
    }
    // The most that numbers can say is less than what they mean here, or as much.
    for step in [
        ulimit("nofile", i64::MAX, i64::MAX),
        ulimit("core", -1, -1),
        limited(pb::LinuxResources { memory: i64::MAX, memory_swap: -1, cpu_shares: u64::MAX, ..Default::default() }),
        limited(pb::LinuxResources { cpu_quota: -1, cpu_shares: 1, ..Default::default() }),
        device("vendor.com/class=none", true),
        selected("/"),
        selected(""),
    ] {
        assert_eq!(builder.out(step).await, "fine\n");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemons_devices_are_listed_and_had_by_whom_it_allows() {
    use rbuild::wire::proto::control::ListWorkersRequest;
    let scratch = super::support::scratch();
    let spec =
        "cdiVersion: 0.6.0\nkind: rbuild.test/thing\ndevices:\n- name: one\n  containerEdits: { env: [THING=one] }\n";
    std::fs::write(scratch.path().join("things.yaml"), spec).unwrap();
    let config = format!("insecure-entitlements = [\"device\"]\n[cdi]\nspecDirs = [{:?}]\n", scratch.path());
    let thing = || {
        let device = pb::CdiDevice { name: "rbuild.test/thing=one".into(), optional: false };
        Step::shell("echo $THING > /out").with(|step| step.op.cdi_devices = vec![device])
    };
    let Some(daemon) = Daemon::start_configured(&config) else { return };
    let workers = daemon.control().await.list_workers(ListWorkersRequest::default()).await.unwrap().into_inner().record;
    let listed: Vec<_> =
        workers[0].cdi_devices.iter().map(|device| (device.name.as_str(), device.auto_allow)).collect();
    assert_eq!(listed, [("rbuild.test/thing=one", false)]);
    let mut builder = Builder::of(daemon, &[]).await.unwrap();
    let (code, said) = builder.refusal(thing()).await;
    let want = "failed to load LLB: device rbuild.test/thing=one is requested by the build but not allowed";
    assert_eq!((code, said.as_str()), (Code::Unknown, want));
    let Builder { daemon, .. } = builder;
    drop(daemon);
    let daemon = Daemon::start_configured(&config).unwrap();
    let mut builder = Builder::of(daemon, &["device=rbuild.test/thing=one"]).await.unwrap();
    assert_eq!(builder.out(thing()).await, "one\n");
    drop(builder.daemon);
    // Without the daemon's leave nobody gets one.
    let Some(daemon) = Daemon::start() else { return };
    let asked = SolveRequest { r#ref: "x".into(), entitlements: vec!["device".into()], ..Default::default() };
    let said = daemon.control().await.solve(asked).await.unwrap_err();
    assert_eq!(said.message(), "granting entitlement device is not allowed by build daemon configuration");
}
