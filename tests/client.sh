#!/usr/bin/env bash
# Unpacks a client from Debian's sid below .cache, docker-buildx or docker-compose, from the mirror that this machine has its
# packages from, and prints where the program is. Nothing is installed, and the machine's own package lists stay as they are.
set -euo pipefail
cd "$(dirname "$0")/.."
client=${1:?docker-buildx or docker-compose}
place=$PWD/.cache/${client#docker-}
mkdir -p "$place"
# One at a time: the others find what the first has made.
exec 9>"$place/lock"
flock 9
plugin=usr/libexec/docker/cli-plugins/$client
for program in "$place/root/$plugin" "$(command -v "$client" || true)" "/$plugin"; do
  if [ -x "$program" ]; then
    echo "$program"
    exit 0
  fi
done
command -v apt-get >/dev/null || { echo "$client is not installed, and there is no apt-get to fetch it" >&2; exit 1; }
# The first address of a Debian archive among the machine's own sources, and the keys it is trusted with.
mirror=$({ cat /etc/apt/sources.list /etc/apt/sources.list.d/*.{list,sources} 2>/dev/null || true; } |
  sed -nE 's#^(URIs: *|deb +(\[[^]]*\] +)?)(https?://[^ ]+/debian)/?( .*)?$#\3#p' | head -1)
[ -n "$mirror" ] || { echo "no Debian archive among the sources of this machine" >&2; exit 1; }
keys=/usr/share/keyrings/debian-archive-keyring.gpg
apt=$place/apt
mkdir -p "$apt"/{state/lists/partial,cache/archives/partial,parts} "$place/root"
echo "deb [signed-by=$keys] $mirror sid main" >"$apt/sources.list"
touch "$apt/status"
options=(-o Dir::State="$apt/state" -o Dir::State::status="$apt/status" -o Dir::Cache="$apt/cache"
  -o Dir::Etc::sourcelist="$apt/sources.list" -o Dir::Etc::sourceparts="$apt/parts"
  -o Dir::Etc::preferencesparts="$apt/parts" -o APT::Sandbox::User=root -o Acquire::Languages=none -o APT::Get::List-Cleanup=0)
apt-get "${options[@]}" update -qq >&2
(cd "$apt" && apt-get "${options[@]}" download -qq "$client" >&2)
dpkg-deb -x "$apt/$client"_*.deb "$place/root"
rm -rf "$apt"
echo "$place/root/$plugin"
