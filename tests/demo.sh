#!/usr/bin/env bash
# The demonstration: obtains a base image, builds testdata/demo twice (the second time all cached), and runs it.
# Usage: demo.sh RBUILD
set -euo pipefail
rbuild=$(realpath "$1")
cd "$(dirname "$0")/.."
export RBUILD_ROOT=${RBUILD_ROOT:-$PWD/target/demo-store}

say() { printf '\n\033[1m== %s\033[0m\n' "$*"; }

if ! "$rbuild" inspect busybox >/dev/null 2>&1 && ! timeout 10 "$rbuild" pull busybox >/dev/null 2>&1; then
  say "no registry has busybox: making the base image busybox from the system's own busybox"
  rootfs=$(mktemp -d)
  trap 'rm -rf "$rootfs"' EXIT
  mkdir -p "$rootfs"/{bin,etc,root,tmp,var}
  chmod 755 "$rootfs"
  chmod 1777 "$rootfs/tmp"
  cp "$(command -v busybox)" "$rootfs/bin/busybox"
  "$rootfs/bin/busybox" --list | while read -r applet; do
    [ "$applet" = busybox ] || ln -s busybox "$rootfs/bin/$applet"
  done
  echo 'root:x:0:0:root:/root:/bin/sh' > "$rootfs/etc/passwd"
  echo 'root:x:0:' > "$rootfs/etc/group"
  tar -C "$rootfs" --owner=0 --group=0 --numeric-owner -c . | "$rbuild" import - busybox:latest
fi

say "rbuild -t demo:1.0 testdata/demo"
"$rbuild" -t demo:1.0 testdata/demo
say "the same again: all cached"
"$rbuild" -t demo:1.0 testdata/demo
say "rbuild run demo:1.0"
"$rbuild" run demo:1.0
