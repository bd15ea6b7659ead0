#!/usr/bin/env python3
"""Makes up COPY and ADD instructions and compares the trees that rbuild and BuildKit make of them.

usage: copies.py RBUILD DOCKER_SOCKET COUNT [SEED]

Needs what behaviour.py needs. Every made-up Dockerfile prepares some files, copies over them, and lists what came of it.
Prints those whose listings differ, or which only one of the two can build; their number is the exit code. What
DIFFERENCES.md argues is not made up here.
"""
import os, random, shutil, sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import behaviour, compare

BEFORE = [
    "mkdir -p /d/sub && echo old > /d/one && chmod 700 /d", "mkdir /real && ln -s /real /via", "echo file > /f",
    "mkdir -p /real/x && ln -s real/x /rel", "ln -s /nowhere /dead", "mkdir -p /d && ln -s /f /d/two.txt",
    "mkdir -p /d/one", "mkdir -p /d/inner", "mkdir -p /d && ln -s . /d/sub", "ln -s loop /loop",
    "mkdir -p /d && chown 5:6 /d && chmod 2755 /d", "mkdir -p /d/sub && chmod 1777 /d/sub && chown 9:9 /d/sub",
]
SOURCES = [
    "a", "b", "exec", "setuid", "private", "link", "dirlink", "dir", "dir/", "dir/.", "dir/*", "dir/sub", "dir/one", "dir/inner",
    "other", "hard", "deep", "deep/x/../top", "*.txt", "d*", "dir/s*", "pkg/*/src", "pkg/*", "[ab]", "nothing*", "dirlink/sub",
    "dir/up", "deep/*/y", "odd", "hard/*", "archive.tar", "archive.tar.gz", "small.tar.xz", "implied.tar", "fake.tar", "a.gz",
    "missing", "dirlink/*", "./dir", "/dir", "dir//sub", "dir/empty", "dir/sub/th?ee", "pkg/one/../two",
]
DESTINATIONS = [
    "/d", "/d/", "/d/.", "/f", "/f/", "/new", "/new/", "/new/deep/er", "/via", "/via/", "/via/new", "/rel/", "/dead", "/dead/",
    "/d/one", "/d/one/", "/d/sub/", "/d/sub/more", ".", "rel", "rel/", "../up/", "/", "/loop/", "/d/two.txt", "/d/inner/",
]
FLAGS = [
    [], [], [], ["--chown=5:6"], ["--chown=builder"], ["--chmod=750"], ["--chmod=u+x,g-r"], ["--chown=lone:staff", "--chmod=600"],
    ["--link"], ["--exclude=*.txt"], ["--exclude=**/one", "--exclude=sub"], ["--exclude=*", "--exclude=!sub"],
]
LIST = (
    "RUN find / -xdev -mindepth 1 \\( -path /proc -o -path /sys -o -path /dev -o -path /bin -o -path /etc -o -path /run "
    "-o -path /usr -o -path /var -o -path /root -o -path /tmp -o -path /words \\) -prune -o -print | sort | while read -r p; do "
    "printf '@ %s ' \"$p\"; stat -c '%F %a %u %g' \"$p\" | tr '\\n' ' '; if [ -L \"$p\" ]; then readlink \"$p\"; "
    "elif [ -f \"$p\" ]; then md5sum < \"$p\"; else echo; fi; done"
)


def dockerfile(rng):
    lines = ["FROM base AS one", "WORKDIR /src", "RUN cp -a /bin/is a; mkdir -p dir/sub; echo 1 > dir/one; chown 7:8 dir/one dir; "
             "ln a dir/hard; ln -s /src/a dir/abs; chmod 2750 dir/sub", "FROM base"]
    lines += ["RUN " + line for line in rng.sample(BEFORE, rng.randrange(4))]
    if rng.random() < 0.5:
        lines.append("WORKDIR /w")
    for _ in range(rng.randrange(1, 4)):
        word, flags = rng.choice(["COPY", "COPY", "ADD"]), list(rng.choice(FLAGS))
        sources = rng.sample(SOURCES, rng.choice([1, 1, 1, 2, 3]))
        if word == "COPY" and rng.random() < 0.2:
            flags.append("--from=one")
            sources = [rng.choice(["/src/a", "/src/dir", "src/dir/*", "/src", "/src/dir/abs", "/src/d*"])]
        lines.append(" ".join([word, *flags, *sources, rng.choice(DESTINATIONS)]))
    return "\n".join(lines + [LIST]) + "\n"


def listing(done):
    said = done.stderr.decode()
    if done.returncode != 0:
        return None, said
    return sorted(line.split("@ ", 1)[1] for line in said.splitlines() if " @ " in line and line.startswith("#") and "RUN" not in line), said


def main():
    rbuild, docker, count, *seed = sys.argv[1:]
    reference, different, both = behaviour.Reference(rbuild, docker), 0, 0
    first = int(seed[0]) if seed else random.randrange(1 << 32)
    file = os.path.join(reference.beside, "Dockerfile")
    for number in range(first, first + int(count)):
        text = dockerfile(random.Random(number))
        open(file, "w").write(text)
        common = ["--progress=plain", "-f", file, reference.context]
        ours = listing(compare.run([rbuild, "--root", reference.builders.root, "build", "--no-cache", *common]))
        theirs = listing(compare.run(
            ["docker-buildx", "build", "--no-cache", "--network=host", "--provenance=false", *common], reference.env))
        both += ours[0] is not None and theirs[0] is not None
        if ours[0] == theirs[0]:
            continue
        different += 1
        print(f"--- seed {number}\n{text}", flush=True)
        for name, (made, said), (other, _) in [("rbuild", ours, theirs), ("BuildKit", theirs, ours)]:
            if made is None:
                print(f"{name} fails: " + said.strip().splitlines()[-1])
            else:
                print("".join(f"only {name}: {line}\n" for line in made if line not in (other or [])), end="")
    print(f"{count} from seed {first}: {both} built by both, {different} differ")
    shutil.rmtree(reference.beside)
    sys.exit(min(different, 255))


if __name__ == "__main__":
    main()
