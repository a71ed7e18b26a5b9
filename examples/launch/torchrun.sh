#!/bin/sh
# Train in several processes with torchrun.
#
#   ./torchrun.sh 4 -m lenet -d mnist -e 5        4 processes on this machine; all else are options of parle train
#
# On several machines, run it on each of them at about the same time:
#
#   NODES=2 NODE_RANK=0 MASTER_ADDR=first INTERFACE=eth0 ./torchrun.sh 4 --name both --runs-dir /shared/runs
#   NODES=2 NODE_RANK=1 MASTER_ADDR=first INTERFACE=eth0 ./torchrun.sh 4 --name both --runs-dir /shared/runs
#
# MASTER_ADDR is the name or address of the first machine, with NODE_RANK 0. INTERFACE is this machine's network interface that
# leads to the others (`ip address` lists them); without it, gloo takes the one to which this machine's own name resolves, which
# is loopback on many. The network must be private: see README.md.
set -eu

processes=${1:?usage: torchrun.sh PROCESSES [options of parle train]}
shift

if [ "${NODES:-1}" -eq 1 ]; then
    exec torchrun --standalone --nproc-per-node "$processes" -m parle train "$@"
fi

if [ -n "${INTERFACE:-}" ]; then
    export GLOO_SOCKET_IFNAME="$INTERFACE" NCCL_SOCKET_IFNAME="$INTERFACE"
fi
exec torchrun --nnodes "$NODES" --node-rank "${NODE_RANK:?is 0 on the first machine, 1 on the second}" \
    --master-addr "${MASTER_ADDR:?is the first machine}" --master-port "${MASTER_PORT:-29500}" \
    --nproc-per-node "$processes" -m parle train "$@"
