#!/usr/bin/env python3
"""Compares what rbuild and BuildKit make of the cases in testdata/dockerfile.

usage: compare.py RBUILD DOCKER_SOCKET [CASE...]

Needs docker-buildx and docker in PATH, a dockerd 28 behind the socket, a static busybox, and root. Both builders get the
same base image `busybox:latest` and the same build context, which are made here. For every case it compares, as far as
the reference can do it (base images other than busybox and scratch cannot be had without a network):

  check    findings of `--check`: rule, detail, line, and the error with its line
  llb      the definition, op by op (see llb.py)
  config   the image's configuration
  history  its history
  tree     its files: path, type, mode, owner, size, content

Prints one row per case and, below the table, the first difference of each kind that differs. DIFFERENCES.md beside the
cases says which differences are meant; this program exits with the number of cases that differ otherwise.
"""
import hashlib, io, json, os, re, shutil, subprocess, sys, tarfile, tempfile

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import llb

CASES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../testdata/dockerfile")
PARTS = ["check", "llb", "config", "history", "tree"]


def run(command, env=None, **more):
    return subprocess.run(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=120, **more)


class Builders:
    def __init__(self, rbuild, socket):
        self.rbuild, self.scratch = rbuild, tempfile.mkdtemp(prefix="rbuild-reference-")
        self.root = os.path.join(self.scratch, "root")
        self.env = {**os.environ, "DOCKER_HOST": f"unix://{socket}", "BUILDX_METADATA_PROVENANCE": "max"}
        self.base()

    def base(self):
        """The base image, made once and given to both."""
        rootfs, archive = os.path.join(self.scratch, "rootfs.tar"), os.path.join(self.scratch, "base.tar")
        busybox = shutil.which("busybox")
        applets = subprocess.check_output([busybox, "--list"], text=True).split()
        files = {
            "etc/passwd": b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
            "etc/group": b"root:x:0:\nnogroup:x:65534:\n",
            # So that no builder has to make them.
            "etc/hosts": b"",
            "etc/resolv.conf": b"",
        }
        with tarfile.open(rootfs, "w") as tar:
            for directory in ["bin", "dev", "etc", "proc", "root", "run", "sys", "tmp"]:
                entry = tarfile.TarInfo(directory)
                entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if directory == "tmp" else 0o755
                tar.addfile(entry)
            for name, content in [*files.items(), ("bin/busybox", open(busybox, "rb").read())]:
                entry = tarfile.TarInfo(name)
                entry.size, entry.mode = len(content), 0o755 if name.startswith("bin") else 0o644
                tar.addfile(entry, io.BytesIO(content))
            for applet in applets:
                entry = tarfile.TarInfo(f"bin/{applet}")
                entry.type, entry.linkname = tarfile.SYMTYPE, "busybox"
                if applet != "busybox":
                    tar.addfile(entry)
        self.ours("import", rootfs, "base:latest")
        empty = os.path.join(self.scratch, "empty")
        os.mkdir(empty)
        open(os.path.join(empty, "Dockerfile"), "w").write('FROM base\nCMD ["sh"]\n')
        self.ours("build", "-q", "-t", "busybox:latest", "-o", f"type=docker,dest={archive}", empty)
        run(["docker", "load", "-i", archive], self.env, check=True)

    def ours(self, *words):
        done = run([self.rbuild, "--root", self.root, *words])
        if done.returncode != 0:
            raise subprocess.CalledProcessError(done.returncode, words, done.stdout, done.stderr)
        return done.stdout

    def context(self, ignore):
        """A build context with a little of everything."""
        context = tempfile.mkdtemp(dir=self.scratch)
        put = lambda name, content: open(os.path.join(context, name), "wb").write(content)
        for directory in ["dir/sub", "dfr", "path"]:
            os.makedirs(os.path.join(context, directory))
        for name in ["a", "b", "x", "one.txt", "keep.txt", "dir/x", "dir/two.txt", "dir/sub/z", "dfr/q"]:
            put(name, name.encode() + b"\n")
        os.symlink("a", os.path.join(context, "link"))
        os.chmod(os.path.join(context, "b"), 0o755)
        for name, mode in [("archive.tar", "w"), ("archive.tar.gz", "w:gz")]:
            with tarfile.open(os.path.join(context, name), mode) as tar:
                entry = tarfile.TarInfo("inside/file")
                entry.size, entry.uid, entry.gid, entry.mode = 2, 7, 8, 0o640
                tar.addfile(entry, io.BytesIO(b"in"))
        if ignore:
            put(".dockerignore", "\n".join(ignore).encode())
        return context


def options_of(case):
    path = os.path.join(CASES, case, "options.json")
    return json.load(open(path)) if os.path.exists(path) else {}


def flags_of(options):
    flags = []
    for name, value in options.get("build_args", {}).items():
        flags += ["--build-arg", f"{name}={value}"]
    for name, value in options.get("labels", {}).items():
        flags += ["--label", f"{name}={value}"]
    for name in ["target", "platform"]:
        if name in options:
            flags += [f"--{name}", options[name]]
    return flags


def findings(text):
    """What a check found, in a form that can be compared."""
    found = json.loads(text)
    line = lambda location: (location or {}).get("ranges", [{}])[0].get("start", {}).get("line")
    warnings = sorted((w["location"] and line(w["location"]) or 0, w["ruleName"], w["detail"]) for w in found["warnings"] or [])
    error = found.get("buildError")
    return {"warnings": warnings, "error": error and [error["message"], line(error.get("location"))]}


def image(archive):
    """Configuration and flattened tree of the image in a docker archive."""
    with tarfile.open(archive) as tar:
        read = lambda name: tar.extractfile(name).read()
        manifest = json.loads(read("manifest.json"))[0]
        config, tree = json.loads(read(manifest["Config"])), {}
        for layer in manifest["Layers"]:
            with tarfile.open(fileobj=io.BytesIO(read(layer))) as inner:
                for entry in inner:
                    name = os.path.normpath("/" + entry.name)
                    base = os.path.basename(name)
                    if base.startswith(".wh."):
                        gone = os.path.join(os.path.dirname(name), base[4:])
                        tree = {k: v for k, v in tree.items() if k != gone and not k.startswith(gone + "/")}
                        continue
                    content = hashlib.sha256(inner.extractfile(entry).read()).hexdigest()[:12] if entry.isreg() else ""
                    kind = "file" if entry.type in b"01" else entry.type.decode()
                    size = entry.size if entry.isreg() else 0
                    tree[name] = [kind, oct(entry.mode), entry.uid, entry.gid, size, entry.linkname, content]
        return config, tree


def slim(config):
    """The configuration without what differs in every build."""
    keep = {k: v for k, v in config.items() if k not in ("created", "history", "rootfs", "moby.buildkit.buildinfo.v1")}
    keep["config"] = {k: v for k, v in (config.get("config") or {}).items() if v not in (None, "", [], {}, False)}
    keep["layers"] = len(config["rootfs"]["diff_ids"])
    return keep


def history(config):
    keep = ("created_by", "empty_layer", "comment", "author")
    return [{k: entry[k] for k in keep if k in entry} for entry in config.get("history", [])]


def compare(builders, case):
    """For each part: None if it is equal, a difference, or "-" where it cannot be compared."""
    options, result = options_of(case), dict.fromkeys(PARTS, "-")
    if "contexts" in options or "context" in options:
        return result
    file, flags = os.path.join(CASES, case, "Dockerfile"), flags_of(options)
    context = builders.context(options.get("ignore"))
    ours = run([builders.rbuild, "--root", builders.root, "build", "--call=check,format=json", "-f", file, *flags, context])
    theirs = run(["docker-buildx", "build", "--call=check,format=json", "-f", file, *flags, context], builders.env)
    try:
        theirs = findings(theirs.stdout)
    except ValueError:
        theirs = theirs.stderr.decode().strip().split("ERROR: ")[-1].split("\n")[0]
    try:
        ours = findings(ours.stdout)
    except ValueError:
        ours = ours.stderr.decode().strip()
    # An image that only a registry has, or several platforms: the reference as it runs here can do neither.
    cannot = ["failed to resolve source metadata", "Multi-platform build is not supported"]
    if any(reason in json.dumps([ours, theirs]) for reason in cannot):
        return result
    result["check"] = llb.difference(ours, theirs)
    if isinstance(theirs, str) or theirs["error"]:
        return result

    metadata, archive = os.path.join(context, "..", f"{case}.json"), os.path.join(builders.scratch, "image.tar")
    name = f"reference-{hashlib.sha256(case.encode()).hexdigest()[:12]}"
    secrets = ["--secret", f"id=a,src={file}", "--secret", f"id=pass,src={file}"]
    network = ["--network=host"]
    built = run(["docker-buildx", "build", "-t", name, "--metadata-file", metadata, *secrets, *network, "-f", file, *flags, context], builders.env)
    if built.returncode != 0:
        # What cannot be built there cannot be built here either.
        tried = run([builders.rbuild, "--root", builders.root, "build", *secrets, "-f", file, *flags, context])
        if os.environ.get("VERBOSE"):
            print("\n".join(done.stderr.decode()[-1200:] for done in [built, tried]))
        result["tree"] = "built, though the reference fails" if tried.returncode == 0 else "-"
        return result
    try:
        command = ["debug", "dump-llb", "--format=json", "-f", file, *flags, context]
        # Labels change no definition, and an empty one is no JSON.
        ours = builders.ours(*command) if "--label" not in flags else b""
        if ours:
            theirs = llb.graph_of_metadata(json.load(open(metadata)))
            result["llb"] = llb.difference(llb.graph_of(json.loads(ours)["def"]), theirs)
        saved = run(["docker", "save", "-o", archive, name], builders.env)
        if b"empty export" in saved.stderr:
            return result
        saved.check_returncode()
        their_config, their_tree = image(archive)
        builders.ours("build", "-q", "-o", f"type=docker,dest={archive}", *secrets, "-f", file, *flags, context)
        our_config, our_tree = image(archive)
        result["config"] = llb.difference(slim(our_config), slim(their_config))
        result["history"] = llb.difference(history(our_config), history(their_config))
        result["tree"] = llb.difference(our_tree, their_tree)
    except subprocess.CalledProcessError as error:
        result["tree"] = f"failed: {(error.stderr or b'').decode().strip()[-300:]}"
    except ValueError as error:
        result["llb"] = f"failed: {error}"
    finally:
        run(["docker", "rmi", "-f", name], builders.env)
        shutil.rmtree(context)
    return result


def meant():
    """Cases with differences that DIFFERENCES.md argues, with the parts that differ."""
    found, path = {}, os.path.join(CASES, "DIFFERENCES.md")
    for line in open(path) if os.path.exists(path) else []:
        row = re.match(r"\| `([^`]+)` \| ([a-z, ]+) \|", line)
        if row:
            found.setdefault(row.group(1), set()).update(part.strip() for part in row.group(2).split(","))
    return found


def main():
    rbuild, socket, *cases = sys.argv[1:]
    every = sorted(case for case in os.listdir(CASES) if os.path.isdir(os.path.join(CASES, case)))
    builders, argued, unexpected, totals, differences = Builders(rbuild, socket), meant(), 0, {}, []
    print(f"{'case':44}" + "".join(f"{part:>9}" for part in PARTS))
    for case in cases or every:
        try:
            result = compare(builders, case)
        except subprocess.TimeoutExpired:
            result = {**dict.fromkeys(PARTS, "-"), "check": "took too long"}
        row = ""
        for part in PARTS:
            word = {None: "equal", "-": "-"}.get(result[part], "differs")
            if word == "differs":
                is_argued = part in argued.get(case, set())
                word = "argued" if is_argued else "differs"
                unexpected += not is_argued
                differences.append(f"{case}/{part}: {result[part]}")
            totals[part, word] = totals.get((part, word), 0) + 1
            row += f"{word:>9}"
        print(f"{case:44}{row}", flush=True)
    print()
    for word in ["equal", "argued", "differs", "-"]:
        print(f"{word:44}" + "".join(f"{totals.get((part, word), 0):9}" for part in PARTS))
    print("\n".join(["", *differences]))
    shutil.rmtree(builders.scratch)
    sys.exit(min(unexpected, 255))


if __name__ == "__main__":
    main()
