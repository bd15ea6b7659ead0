#!/usr/bin/env python3
"""Times what a warm store is for, with one rbuild: medians, and the largest memory of a process.

usage: cache.py RBUILD [--files 10000,100000] [--runs 7] [--work DIR]

RBUILD is a program built with `cargo build --release`. Goals: all cached, 20 steps, at most 25 ms with 10,000 files and
150 ms with 100,000; a miss explained over 100,000 files in less than 50 ms more; 64 MiB.

warm      all-cached rebuild of 20 steps on a context of so many files
miss      one file edited: COPY runs, and the build names the file
bare      the same without the listing that an earlier build left, so that no file can be named

`miss` less `bare` is what an explanation costs; the two alternate, so that what else the machine does falls on both.
"""
import argparse, glob, os, shutil, statistics, subprocess, sys, tempfile, time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import builders  # noqa: E402


def context(work, files):
    root = f"{work}/context-{files}"
    if not os.path.exists(f"{root}/Dockerfile"):
        for i in range(files):
            builders.write(f"{root}/src/d{i // 100:04d}/f{i:06d}.txt", f"{i}\n" * 20)
        steps = "".join(f"RUN true # step {i}\n" for i in range(3, 21))
        builders.write(f"{root}/Dockerfile", f"FROM busybox\nCOPY src /src\n{steps}")
        time.sleep(0.1)  # files younger than a clock's tick are read again
    return root


def build(rbuild, store, root):
    began = time.perf_counter()
    process = subprocess.Popen([rbuild, "--root", store, "build", "--progress=plain", root], stderr=subprocess.PIPE)
    said = process.stderr.read().decode()
    _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        sys.exit(said)
    return time.perf_counter() - began, usage.ru_maxrss, said


def edit(root, number):
    builders.write(f"{root}/src/d0000/f000000.txt", f"edit {number}\n")


def main():
    options = argparse.ArgumentParser()
    options.add_argument("rbuild")
    options.add_argument("--files", default="10000,100000")
    options.add_argument("--runs", type=int, default=7)
    options.add_argument("--work", default=None)
    options = options.parse_args()
    work = options.work or tempfile.mkdtemp(prefix="rbuild-bench-", dir=".")
    os.makedirs(work, exist_ok=True)
    print(f"{'files':>8} {'case':>5} {'median ms':>10} {'least ms':>9} {'MiB':>6}")
    for files in map(int, options.files.split(",")):
        store, root = f"{work}/store-{files}", context(work, files)
        subprocess.check_call([options.rbuild, "--root", store, "import", builders.busybox_tar(work), "busybox"],
                              stdout=subprocess.DEVNULL)
        build(options.rbuild, store, root)
        time.sleep(1)
        build(options.rbuild, store, root)
        cases = {"warm": [], "miss": [], "bare": []}
        for _ in range(options.runs):
            took, memory, said = build(options.rbuild, store, root)
            assert "MISS" not in said, said
            cases["warm"].append((took, memory))
        for run in range(2 * options.runs):
            case = ("miss", "bare")[run % 2]
            edit(root, run)
            if case == "bare":
                for listing in glob.glob(f"{store}/results/*/*.files"):
                    os.remove(listing)
            took, memory, said = build(options.rbuild, store, root)
            assert ("f000000.txt changed" in said) == (case == "miss"), said
            cases[case].append((took, memory))
        for case, runs in cases.items():
            times = [took * 1000 for took, _ in runs]
            most = max(memory for _, memory in runs) / 1024
            print(f"{files:8} {case:>5} {statistics.median(times):10.1f} {min(times):9.1f} {most:6.1f}")
        shutil.rmtree(store)
    if options.work is None:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
