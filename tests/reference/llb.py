#!/usr/bin/env python3
"""Compares the graphs that rbuild and BuildKit make of the same Dockerfiles, op by op.

usage: llb.py RBUILD DOCKER_SOCKET DOCKERFILE_DIR...

Needs docker-buildx in PATH and a dockerd 28 behind the socket, whose BuildKit writes its definition into the metadata
file. Each directory is a build context with a Dockerfile whose base images both builders have. Prints one line per
directory, and the first difference where there is one; exits with the number of directories that differ.
"""
import base64, json, os, subprocess, sys, tempfile

WRAPPERS = {"Op", "Action", "User"}


def plain(value):
    """Field names in one spelling, without the wrappers of Go's oneofs, lists of key and value as objects."""
    if isinstance(value, dict):
        out = {}
        for key, inner in value.items():
            if key in WRAPPERS and isinstance(inner, dict):
                out.update(plain(inner))
            else:
                out[key.replace("_", "").lower()] = plain(inner)
        return {k: v for k, v in out.items() if v not in (None, "", [], {}, False, 0)}
    if isinstance(value, list):
        if value and all(isinstance(v, dict) and set(v) == {"key", "value"} for v in value):
            return plain({v["key"]: v["value"] for v in value})
        return [plain(v) for v in value]
    return value


def tree(ops, inputs, at):
    """The op at `at` with its inputs spelled out."""
    op = dict(plain(ops[at]))
    op.pop("inputs", None)
    op.pop("constraints", None)
    source = op.get("source")
    if source:
        # Docker's own store is asked by its engine; that is no matter of the Dockerfile.
        attrs = {k: v for k, v in source.get("attrs", {}).items() if k != "image.resolvemode"}
        op["source"] = {**source, "attrs": attrs}
    return {"op": op, "inputs": [(tree(ops, inputs, name), index) for name, index in inputs[at]]}


def ours(rbuild, context):
    return graph_of(json.loads(subprocess.check_output([rbuild, "debug", "dump-llb", "--format=json", context]))["def"])


def graph_of(definition):
    ops = {entry["digest"]: entry["op"] for entry in definition}
    inputs = {d: [(i["digest"], i.get("index", 0)) for i in op.get("inputs", [])] for d, op in ops.items()}
    return tree(ops, inputs, inputs[definition[-1]["digest"]][0][0])


def theirs(socket, context):
    with tempfile.NamedTemporaryFile() as metadata:
        env = {**os.environ, "DOCKER_HOST": f"unix://{socket}", "BUILDX_METADATA_PROVENANCE": "max"}
        # Its engine needs no bridge for the host's network; what that changes in the graph is taken back below.
        command = ["docker-buildx", "build", "-q", "--network=host", "--metadata-file", metadata.name, context]
        subprocess.run(command, env=env, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        return graph_of_metadata(json.load(open(metadata.name)))


def graph_of_metadata(metadata):
    definition = metadata["buildx.build.provenance"]["buildConfig"]["llbDefinition"]
    ops = {entry["id"]: entry["op"] for entry in definition}
    for op in ops.values():
        for action in op.get("Op", {}).get("file", {}).get("actions", []):
            made = action.get("Action", {}).get("mkfile", {})
            if "data" in made:
                made["data"] = base64.b64decode(made["data"]).decode(errors="replace")
        run = op.get("Op", {}).get("exec", {})
        if run.get("network") == 1:
            del run["network"]
    inputs = {}
    for entry in definition:
        pairs = (reference.rsplit(":", 1) for reference in entry.get("inputs", []))
        inputs[entry["id"]] = [(name, int(index)) for name, index in pairs]
    return tree(ops, inputs, inputs[definition[-1]["id"]][0][0])


def difference(a, b, path=""):
    if isinstance(a, dict) and isinstance(b, dict):
        for key in sorted(set(a) | set(b)):
            found = difference(a.get(key), b.get(key), f"{path}/{key}")
            if found:
                return found
        return None
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        if len(a) != len(b):
            return f"{path}: {json.dumps(a)[:300]} against {json.dumps(b)[:300]}"
        for index, (x, y) in enumerate(zip(a, b)):
            found = difference(x, y, f"{path}[{index}]")
            if found:
                return found
        return None
    return None if a == b else f"{path}: {json.dumps(a)[:300]} against {json.dumps(b)[:300]}"


def main():
    rbuild, socket, *contexts = sys.argv[1:]
    differing = 0
    for context in contexts:
        try:
            found = difference(ours(rbuild, context), theirs(socket, context))
        except subprocess.CalledProcessError as error:
            found = f"{error.cmd[0]} failed: {(error.stderr or b'').decode()[-300:]}"
        print(f"{'differs' if found else 'equal  '} {context}{': ' + found if found else ''}")
        differing += bool(found)
    sys.exit(differing)


if __name__ == "__main__":
    main()
