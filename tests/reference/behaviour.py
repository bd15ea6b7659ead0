#!/usr/bin/env python3
"""Builds the cases of testdata/behaviour with BuildKit: what rbuild's steps see there, its steps must see too.

usage: behaviour.py RBUILD DOCKER_SOCKET [PART OF A NAME]

Needs docker-buildx and docker in PATH, a dockerd 28 behind the socket that keeps its images in containerd's store
(`"features": {"containerd-snapshotter": true}`), a static busybox, and root. The base image and the context are made by
rbuild, so that both builders have the same; see tests/behaviour.rs for the form of the cases. Cases that BuildKit does
not pass and DIFFERENCES.md does not argue are printed, and their number is the exit code.
"""
import functools, http.server, json, os, re, shutil, socket, subprocess, sys, tarfile, threading
from concurrent.futures import ThreadPoolExecutor

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import compare

TESTDATA = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../testdata")
CASES = os.path.join(TESTDATA, "behaviour")
OPTIONS = ("args", "ignore", "fails", "config", "history", "no-history", "author")


def cases():
    """Every case: its file, name, options and Dockerfile."""
    for file in sorted(name for name in os.listdir(CASES) if name.endswith(".txt")):
        text = re.sub(r"^= .*\n", "", open(os.path.join(CASES, file)).read(), flags=re.M)
        for part in re.split(r"^== ", text, flags=re.M)[1:]:
            name, *lines = part.rstrip("\n").split("\n")
            options = {}
            while lines and lines[0].split(":")[0] in OPTIONS:
                key, value = lines.pop(0).split(":", 1)
                options[key] = value.strip()
            yield f"{file[:-4]}: {name}", options, "".join(f"{line}\n" for line in lines)


class Reference:
    def __init__(self, rbuild, docker):
        builders = self.builders = compare.Builders(rbuild, docker)
        self.beside, self.env = builders.scratch, {**builders.env, "BEHAVIOUR": "from a variable"}
        self.context = os.path.join(self.beside, "context")
        archive = os.path.join(self.beside, "base.tar")
        base, context = (os.path.join(CASES, f"{name}.dockerfile") for name in ["base", "context"])
        builders.ours("build", "-q", "-f", base, "-t", "base", "-o", f"type=docker,dest={archive}", "-o", "type=image", CASES)
        builders.ours("build", "-q", "-f", context, "-o", self.context, os.path.join(TESTDATA, "archives"))
        compare.run(["docker", "load", "-i", archive], self.env, check=True)
        open(os.path.join(self.beside, "secret"), "w").write("sesame")
        os.mkdir(os.path.join(self.beside, "other"))
        open(os.path.join(self.beside, "other", "f"), "w").write("from another directory\n")
        self.agent = socket.socket(socket.AF_UNIX)
        self.agent.bind(os.path.join(self.beside, "agent.sock"))
        self.agent.listen()
        handler = functools.partial(Quiet, directory=self.context)
        self.web = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=self.web.serve_forever, daemon=True).start()

    def build(self, number, options, dockerfile):
        """Why the case fails, or nothing."""
        home = os.path.join(self.beside, f"case-{number}")
        os.mkdir(home)
        file, image = os.path.join(home, "Dockerfile"), os.path.join(home, "image.tar")
        open(file, "w").write(dockerfile)
        if "ignore" in options:
            open(file + ".dockerignore", "w").write("\n".join(options["ignore"].split()) + "\n")
        args = options.get("args", "").replace("{http}", f"http://127.0.0.1:{self.web.server_port}").split()
        command = ["docker-buildx", "build", "--progress=plain", "--network=host", "--provenance=false", "-f", file, *args]
        output = ["-o", f"type=docker,dest={image}"] if {"config", "history", "no-history", "author"} & set(options) else []
        done = compare.run([*command, *output, self.context], self.env, cwd=self.beside)
        said = done.stderr.decode()
        if "fails" in options:
            line, _, text = options["fails"].partition(" ")
            if done.returncode == 0:
                return "it does not fail"
            wanted = [text] + ([f"Dockerfile:{line}\n"] if line != "-" else [])
            return None if all(part in said for part in wanted) else f"not {wanted} in\n{said}"
        if done.returncode != 0:
            return said
        if not output:
            return None
        with tarfile.open(image) as tar:
            manifest = json.load(tar.extractfile("manifest.json"))[0]
            config = json.load(tar.extractfile(manifest["Config"]))
        return expected(options, config)


def expected(options, config):
    for key, value in json.loads(options.get("config", "{}")).items():
        if (config["config"].get(key) or None) != value:
            return f"{key} is {config['config'].get(key)}"
    history = [entry.get("created_by", "") for entry in config["history"]]
    if "history" in options and options["history"] not in history:
        return f"the history is {history}"
    if "no-history" in options and any(options["no-history"] in entry for entry in history):
        return f"the history is {history}"
    if options.get("author") not in (None, config.get("author")):
        return f"the author is {config.get('author')}"
    return None


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def argued():
    """Cases that DIFFERENCES.md argues."""
    found = re.findall(r"^\| ([a-z]+: [^|]+) \|", open(os.path.join(TESTDATA, "dockerfile/DIFFERENCES.md")).read(), re.M)
    return {name.strip() for name in found}


def main():
    rbuild, docker, *parts = sys.argv[1:]
    reference, meant = Reference(rbuild, docker), argued()
    chosen = [case for case in cases() if all(part in case[0] for part in parts)]
    unknown = meant - {name for name, _, _ in cases()}
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda it: reference.build(it[0], *it[1][1:]), enumerate(chosen)))
    failed = [(name, why) for (name, _, _), why in zip(chosen, results) if why]
    surprising = [name for name, _ in failed if name not in meant]
    for name, why in failed:
        print(f"--- {name}{'' if name in surprising else ' (argued)'}\n{why}")
    print(f"{len(chosen)} cases, {len(failed)} differ, {len(failed) - len(surprising)} of them argued")
    stale = sorted(unknown | ({name for name, _, _ in chosen} & meant) - {name for name, _ in failed})
    print("".join(f"argued, but not different: {name}\n" for name in stale), end="")
    shutil.rmtree(reference.beside)
    sys.exit(min(len(surprising), 255))


if __name__ == "__main__":
    main()
