#!/bin/sh
# The tables of README.md: two workers of one thread each, which may be stopped and started again. Results lie in runs/reproduce.
set -e
cd "$(dirname "$0")"
common="--set threads=1 --set processes=false"
small="--scale 0.01 --set model.options.width=0.25 --set model.channels_last=true --set precision=bf16 --set evaluation.every=1000 $common"

lenet() {
    parle reproduce parle-table-1 --only lenet-parle,lenet-sgd --seeds 1 $common
}

allcnn() {
    for row in "$@"; do parle reproduce parle-table-2 --only "$row" --seeds 1 $small; done
}

(lenet; allcnn allcnn-25 allcnn-50) &
parle reproduce parle-figure-1 --only allcnn-sgd $small
allcnn allcnn-entropy allcnn-elastic allcnn-parle
wait
parle reproduce parle-table-2 --finished $small
