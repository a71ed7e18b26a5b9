#!/bin/sh
# Train in several processes with mpiexec, over MPI: MPICH, Open MPI, or what your cluster has.
#
#   pip install "parle-sgd[mpich]"                on a machine without MPI; parle-sgd[mpi] where there is one
#   ./mpiexec.sh 4 -m lenet -d mnist -e 5         4 processes on this machine; all else are options of parle train
#
# On several machines, name them as your MPI wants it, by MPIEXEC_OPTIONS, and put the runs on a shared file system:
#
#   MPIEXEC_OPTIONS="-hosts first,second -ppn 2" ./mpiexec.sh 4 --name both --runs-dir /shared/runs        MPICH
#   MPIEXEC_OPTIONS="--host first:2,second:2" ./mpiexec.sh 4 --name both --runs-dir /shared/runs           Open MPI
set -eu

processes=${1:?usage: mpiexec.sh PROCESSES [options of parle train]}
shift

options=${MPIEXEC_OPTIONS:-}
if mpiexec --version 2>&1 | grep -q -i -e "open mpi" -e "open-mpi" -e openrte; then
    options="--bind-to none $options"  # else two processes get one core each, and parle counts only these
    if [ "$(id -u)" -eq 0 ]; then
        options="--allow-run-as-root $options"
    fi
    if [ -z "${MPIEXEC_OPTIONS:-}" ] && [ "$processes" -gt "$(nproc)" ]; then
        options="--oversubscribe $options"
    fi
fi
# shellcheck disable=SC2086 # the options are several words
exec mpiexec $options -n "$processes" python -m parle train "$@"
