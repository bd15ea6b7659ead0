#!/bin/bash
# Fuzzes the frontend: run.sh [SECONDS [TARGET…]]. Findings are left in target/fuzz/findings, what is new in the corpus
# below target/fuzz/corpus; `run.sh keep` puts the smallest corpus of the same coverage into testdata/fuzz.
set -euo pipefail
cd "$(dirname "$0")"
root=$(cd ../.. && pwd)
export CARGO_TARGET_DIR=$root/target/fuzz
# What libFuzzer wants to know of the code it runs. These flags work with a stable compiler; build scripts go without.
export RUSTFLAGS="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4
  -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table
  -Cllvm-args=-sanitizer-coverage-trace-compares"
host=$(rustc -vV | sed -n 's/^host: //p')
cargo build --release --locked --target "$host"
bin=$CARGO_TARGET_DIR/$host/release

if [ "${1:-}" = keep ]; then
  for target in file word ignore array; do
    rm -rf "$CARGO_TARGET_DIR/kept" && mkdir -p "$CARGO_TARGET_DIR/kept" "$root/testdata/fuzz/$target"
    "$bin/$target" -merge=1 -max_len=400 "$CARGO_TARGET_DIR/kept" "$CARGO_TARGET_DIR/corpus/$target" \
      "$root/testdata/fuzz/$target" >/dev/null 2>&1
    rm -rf "$root/testdata/fuzz/$target" && cp -r "$CARGO_TARGET_DIR/kept" "$root/testdata/fuzz/$target"
    du -sh "$root/testdata/fuzz/$target"
  done
  exit
fi

seconds=${1:-300}
shift || true
for target in ${@:-file word ignore array growth}; do
  mkdir -p "$CARGO_TARGET_DIR/corpus/$target" "$CARGO_TARGET_DIR/findings"
  kept=$root/testdata/fuzz/$target
  echo "== $target"
  nice -n 19 "$bin/$target" -max_total_time="$seconds" -max_len=2048 -timeout=60 -rss_limit_mb=2048 -dict=words.dict \
    -print_final_stats=1 -artifact_prefix="$CARGO_TARGET_DIR/findings/$target-" \
    "$CARGO_TARGET_DIR/corpus/$target" $([ -d "$kept" ] && echo "$kept") 2>&1 | grep -E "DONE|^stat::|panicked|ERROR|SUMMARY" -A2
done
