#!/usr/bin/env bash
# Seconds of `parle --help`, and from `git clone` to the end of `make demo`, on this machine.
#   benchmarks/start_up.sh            both
#   benchmarks/start_up.sh --help     only the first
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
export TIMEFORMAT='%3R s'
bin="$root/.venv/bin"
[ -x "$bin/parle" ] || bin=$(dirname "$(command -v parle)")
for turn in 1 2 3 4 5; do
    echo -n "parle --help ($turn): "
    time "$bin/parle" --help >/dev/null
done
[ "${1:-}" = "--help" ] && exit
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
echo -n "git clone to the end of make demo: "
time (cd "$folder" && git clone --quiet "$root" fresh && cd fresh && HOME="$folder" make demo >"$folder/log" 2>&1) || { tail -20 "$folder/log"; exit 1; }
tail -12 "$folder/log"
