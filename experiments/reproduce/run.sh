#!/bin/sh
# The tables of README.md: two workers of one thread each, which may be stopped and started again. Results lie in runs/reproduce.
set -e
cd "$(dirname "$0")"
common="--set threads=1 --set processes=false"
small="--scale 0.02 --set model.options.width=0.25 --set model.channels_last=true --set precision=bf16 --set evaluation.every=6 $common"

lenet() {
    parle reproduce parle-table-1 --only lenet-parle --seeds 1 $common
    parle reproduce parle-table-1 --only lenet-sgd --seeds 1 $common
}

allcnn() {
    for row in "$@"; do parle reproduce parle-table-2 --only "$row" --seeds 3 $small; done
}

(lenet; allcnn allcnn-25 allcnn-50) &
allcnn allcnn-sgd allcnn-entropy allcnn-elastic allcnn-parle
wait
parle reproduce parle-figure-1 $small
parle reproduce parle-table-2 $small
