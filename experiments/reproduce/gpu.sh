#!/bin/sh
# The full table 2 on a GPU, in pieces of nine minutes: run it again until it ends with 0. Nobody has run it yet.
set -e
cd "$(dirname "$0")"
parle reproduce parle-table-2 --minutes 9 --set device=cuda --set model.channels_last=true --set precision=bf16 --set checkpoint.every=2min "$@"
