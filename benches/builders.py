#!/usr/bin/env python3
"""Times whole builds of one or more builders on the same workloads and prints a table of medians and ratios.

usage: builders.py BUILDER [BUILDER...] [--case a,f,b,d] [--runs 5] [--work DIR]

BUILDER is `rbuild=PATH`, `buildah`, or `buildkit=SOCKET` (a dockerd 28 listening on that unix socket, driven by
docker-buildx). Each needs an image `busybox` it can resolve: for rbuild and buildah this script imports one made of
/bin/busybox; for buildkit it is loaded with `docker load`.

a  all-cached rebuild: 20 steps, a context of 10,000 files
f  20 x RUN true, nothing from the cache
b  the steps of a, nothing from the cache
d  16 independent stages of RUN sleep 0.2, nothing from the cache

Runs of the builders alternate, so that what else the machine does falls on all alike: trust the ratios.
"""
import argparse, os, random, resource, shutil, statistics, subprocess, sys, tempfile, time

CASES = {
    "a": ("all-cached, 20 steps, 10,000 files", "files", False),
    "f": ("20 x RUN true, no cache", "run20", True),
    "b": ("20 steps + 10,000 files, no cache", "files", True),
    "d": ("16 stages of sleep 0.2, no cache", "stages", True),
}


def write(path, data):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as f:
        f.write(data if isinstance(data, bytes) else data.encode())


def workloads(work):
    if not os.path.exists(f"{work}/files/Dockerfile"):
        rng = random.Random(1)
        for i in range(10_000):
            write(f"{work}/files/src/d{i // 100:03d}/f{i:05d}.txt", rng.randbytes(rng.randint(100, 2000)).hex())
        steps = "".join(f"RUN true # step {i}\n" for i in range(3, 21))
        write(f"{work}/files/Dockerfile", f"FROM busybox\nCOPY src /src\n{steps}")
    write(f"{work}/run20/Dockerfile", "FROM busybox\n" + "".join(f"RUN true # step {i}\n" for i in range(20)))
    stages = "".join(f"FROM busybox AS s{i}\nRUN sleep 0.2 && echo {i} > /o\n" for i in range(16))
    copies = "".join(f"COPY --from=s{i} /o /o{i}\n" for i in range(16))
    write(f"{work}/stages/Dockerfile", f"{stages}FROM busybox\n{copies}")


def busybox_tar(work):
    root = f"{work}/busybox"
    if not os.path.exists(f"{root}.tar"):
        for d in ("bin", "etc", "root", "tmp"):
            os.makedirs(f"{root}/{d}", exist_ok=True)
        shutil.copy("/bin/busybox", f"{root}/bin/busybox")
        for applet in subprocess.check_output(["/bin/busybox", "--list"], text=True).split():
            if applet != "busybox":
                os.symlink("busybox", f"{root}/bin/{applet}")
        write(f"{root}/etc/passwd", "root:x:0:0:root:/root:/bin/sh\n")
        subprocess.check_call(["tar", "-C", root, "--owner=0", "--group=0", "-cf", f"{root}.tar", "."])
    return f"{root}.tar"


class Rbuild:
    def __init__(self, path, work):
        self.path, self.store = os.path.abspath(path), tempfile.mkdtemp(dir=work, prefix="rbuild-store-")
        self.env = {**os.environ, "RBUILD_ROOT": self.store}
        subprocess.check_call([self.path, "import", busybox_tar(work), "busybox"], env=self.env, stdout=subprocess.DEVNULL)

    def command(self, context, no_cache):
        return [self.path, "build", "--progress=plain", *(["--no-cache"] if no_cache else []), "-t", "bench", context]


class Buildah:
    def __init__(self, _, work):
        self.env = {**os.environ, "BUILDAH_ISOLATION": "oci"}
        self.flags = ["--root", f"{work}/buildah/root", "--runroot", f"{work}/buildah/run", "--storage-driver", "overlay"]
        made = subprocess.check_output(["buildah", *self.flags, "from", "scratch"], text=True).strip()
        subprocess.check_call(["buildah", *self.flags, "add", "-q", made, busybox_tar(work), "/"], stdout=subprocess.DEVNULL)
        subprocess.check_call(["buildah", *self.flags, "commit", "-q", made, "localhost/busybox"], stdout=subprocess.DEVNULL)

    def command(self, context, no_cache):
        cache = ["--no-cache"] if no_cache else []
        return ["buildah", *self.flags, "build", "--runtime", "runc", "--network=host", "--layers", "--jobs=16", *cache,
                "-t", "bench", context]


class Buildkit:
    def __init__(self, socket, work):
        self.env = {**os.environ, "DOCKER_HOST": f"unix://{socket}"}
        subprocess.check_call(["docker", "import", busybox_tar(work), "busybox:latest"], env=self.env, stdout=subprocess.DEVNULL)

    def command(self, context, no_cache):
        cache = ["--no-cache"] if no_cache else []
        return ["docker-buildx", "build", "--network=host", "--progress=plain", *cache, "-t", "bench", context]


def timed(builder, context, no_cache):
    start = time.monotonic()
    process = subprocess.Popen(builder.command(context, no_cache), env=builder.env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    said = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{builder.command(context, no_cache)} failed:\n{said.decode(errors='replace')[-3000:]}")
    return time.monotonic() - start, usage.ru_maxrss / 1024


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("builders", nargs="+")
    parser.add_argument("--case", default="a,f,b,d")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--work", default=None)
    args = parser.parse_args()
    work = args.work or os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "target", "bench")
    os.makedirs(work, exist_ok=True)
    work = os.path.abspath(work)
    workloads(work)
    kinds = {"rbuild": Rbuild, "buildah": Buildah, "buildkit": Buildkit}
    builders = {}
    for word in args.builders:
        name, _, value = word.partition("=")
        builders[name] = kinds[name](value, work)
    first = next(iter(builders))
    print(f"{'case':40s} {'builder':10s} {'median s':>9s} {'min':>7s} {'max':>7s} {'MiB':>6s}   median / {first}")
    for case in args.case.split(","):
        title, context, no_cache = CASES[case]
        for builder in builders.values():
            timed(builder, f"{work}/{context}", False)
        rows = {name: [] for name in builders}
        for _ in range(args.runs):
            for name, builder in builders.items():
                rows[name].append(timed(builder, f"{work}/{context}", no_cache))
        base = statistics.median(t for t, _ in rows[first])
        for name, row in rows.items():
            times = [t for t, _ in row]
            median = statistics.median(times)
            print(f"{case + '  ' + title:40s} {name:10s} {median:9.3f} {min(times):7.3f} {max(times):7.3f} "
                  f"{max(m for _, m in row):6.0f}   {median / base:.1f}", flush=True)


if __name__ == "__main__":
    main()
