//! A graph as text: each vertex with its op, and its inputs by number.

use solver::graph::op::{ActionInput, ChownOpt, FileAction, FileActionKind, Mount, MountKind, Op, UserOpt};
use solver::graph::{Graph, OutputRef, Vertex};

/// One paragraph for each vertex.
pub fn graph(graph: &Graph) -> String {
    let mut text = String::new();
    for (number, vertex) in graph.vertices().iter().enumerate() {
        text.push_str(&format!("{number} {}\n", vertex.hints.name().unwrap_or("-")));
        for line in about(vertex).into_iter().chain(op(graph, vertex)) {
            text.push_str(&format!("    {line}\n"));
        }
    }
    for target in graph.targets() {
        text.push_str(&format!("target {}\n", reference(graph, *target)));
    }
    text
}

fn reference(graph: &Graph, output: OutputRef) -> String {
    format!("{}:{}", graph.position(&output.vertex).unwrap(), output.output.0)
}

fn about(vertex: &Vertex) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(origin) = &vertex.origin {
        let range = &origin.locations[0].ranges[0];
        lines.push(format!("lines {}-{}", range.start.line, range.end.line));
    }
    if let Some(platform) = &vertex.platform {
        lines.push(format!("platform {platform}"));
    }
    if vertex.hints.ignore_cache {
        lines.push("ignore cache".into());
    }
    if let Some(group) = &vertex.hints.progress_group {
        lines.push(format!("group {} weak={}", group.name, group.weak));
    }
    lines
}

fn op(graph: &Graph, vertex: &Vertex) -> Vec<String> {
    let input = |index: usize| reference(graph, vertex.inputs[index].from);
    let mut lines = Vec::new();
    match &vertex.op {
        Op::Source(source) => {
            lines.push(format!("source {}", source.identifier));
            lines.extend(source.attrs.iter().map(|(name, value)| format!("  {name} = {value}")));
        }
        Op::Run(run) => {
            lines.push(format!("run {:?}", run.meta.args));
            lines.extend(run.meta.env.iter().map(|pair| format!("  env {pair}")));
            lines.push(format!("  cwd {} user {:?}", run.meta.cwd, run.meta.user));
            if run.network != Default::default() || run.security != Default::default() {
                lines.push(format!("  network {:?} security {:?}", run.network, run.security));
            }
            if let Some(proxy) = &run.meta.proxy_env {
                lines.push(format!("  {proxy:?}"));
            }
            lines.extend(run.secret_env.iter().map(|secret| format!("  {secret:?}")));
            lines.extend(run.devices.iter().map(|device| format!("  {device:?}")));
            lines.extend(run.mounts.iter().map(|mount| format!("  {}", self::mount(mount, &input))));
        }
        Op::File(file) => {
            let inputs = &|from: ActionInput| match from {
                ActionInput::Scratch => "scratch".to_string(),
                ActionInput::Input(index) => input(index),
                ActionInput::Action(index) => format!("action {index}"),
            };
            lines.extend(file.actions.iter().map(|action| self::action(action, inputs)));
        }
        Op::Merge(merge) => {
            let inputs: Vec<String> = merge.inputs.iter().map(|index| index.map_or("scratch".into(), input)).collect();
            lines.push(format!("merge {}", inputs.join(" ")));
        }
        other => lines.push(format!("{other:?}")),
    }
    lines
}

fn mount(mount: &Mount, input: &dyn Fn(usize) -> String) -> String {
    let from = mount.input.map_or("scratch".into(), input);
    let access = if mount.readonly { "ro" } else { "rw" };
    let mut text = format!("mount {} {access} from {from}{}", mount.dest, mount.selector);
    if let Some(output) = mount.output {
        text.push_str(&format!(" -> {}", output.0));
    }
    if mount.kind != MountKind::Bind {
        text.push_str(&format!(" {:?}", mount.kind));
    }
    text
}

fn action(action: &FileAction, input: &dyn Fn(ActionInput) -> String) -> String {
    let user = |user: &Option<UserOpt>| match user {
        None => "-".to_string(),
        Some(UserOpt::Id(id)) => id.to_string(),
        Some(UserOpt::Name { name, input: from }) => format!("{name}@{}", input(*from)),
    };
    let owner = |owner: &Option<ChownOpt>| {
        owner.as_ref().map(|owner| format!(" owner={}:{}", user(&owner.user), user(&owner.group))).unwrap_or_default()
    };
    let time = |time: &Option<i64>| time.map(|time| format!(" time={time}")).unwrap_or_default();
    let base = input(action.input);
    let mut text = match &action.kind {
        FileActionKind::Copy(copy) => {
            let mut text = format!("on {base} copy {}{} to {}", input(action.secondary), copy.src, copy.dest);
            for (name, is_set) in [
                ("follow", copy.follow_symlink),
                ("contents", copy.dir_copy_contents),
                ("unpack", copy.attempt_unpack),
                ("parents", copy.create_dest_path),
                ("wildcard", copy.allow_wildcard),
                ("empty-wildcard", copy.allow_empty_wildcard),
                ("replace", copy.always_replace),
            ] {
                if is_set {
                    text.push_str(&format!(" {name}"));
                }
            }
            for (name, list) in
                [("include", &copy.include), ("exclude", &copy.exclude), ("required", &copy.required_paths)]
            {
                if !list.is_empty() {
                    text.push_str(&format!(" {name}={list:?}"));
                }
            }
            if let Some(mode) = copy.mode {
                text.push_str(&format!(" mode={mode:o}"));
            }
            if !copy.mode_str.is_empty() {
                text.push_str(&format!(" mode={}", copy.mode_str));
            }
            text + &owner(&copy.owner) + &time(&copy.timestamp)
        }
        FileActionKind::MkFile { path, mode, data, owner: who, timestamp } => {
            let data = String::from_utf8_lossy(data);
            format!("on {base} mkfile {path} mode={mode:o} {data:?}{}{}", owner(who), time(timestamp))
        }
        FileActionKind::MkDir { path, mode, make_parents, owner: who, timestamp } => {
            let parents = if *make_parents { " parents" } else { "" };
            format!("on {base} mkdir {path} mode={mode:o}{parents}{}{}", owner(who), time(timestamp))
        }
        other => format!("on {base} {other:?}"),
    };
    if let Some(output) = action.output {
        text.push_str(&format!(" -> {}", output.0));
    }
    text
}
