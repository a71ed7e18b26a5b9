#!/bin/sh
# Train at a server on a Ray cluster: every replica is a Ray task that goes by its own clock.
#
#   export RAY_AUTH_MODE=token RAY_AUTH_TOKEN=...     the same on all machines; `ray get-auth-token --generate` makes one
#   ./ray.sh head                                     on the first machine; stays in the foreground, Ctrl-C ends it
#   ./ray.sh join first:6379                          on every other one; likewise
#   ./ray.sh train first:6379 -a server-sgd -n 8 --quorum "ramp(1, n, every=300)" -m lenet -d mnist
#
# Without a cluster: `parle train --ray local -a server-sgd -n 4`. Who reaches a Ray cluster can run programs there, and nothing is
# encrypted: use a private network, and the token.
set -eu

what=${1:?usage: ray.sh head | join ADDRESS | train ADDRESS [options of parle train]}
shift
if [ "${RAY_AUTH_MODE:-}" != token ]; then
    echo "ray.sh: RAY_AUTH_MODE is not token, so anybody who reaches this cluster can run programs on it." >&2
fi

case $what in
head) exec ray start --head --port "${PORT:-6379}" --include-dashboard=false --block ;;
join) exec ray start --address "${1:?usage: ray.sh join ADDRESS}" --block ;;
train)
    address=${1:?usage: ray.sh train ADDRESS [options of parle train]}
    shift
    exec python -m parle train --ray "$address" "$@"
    ;;
*)
    echo "ray.sh: $what is none of head, join, train" >&2
    exit 2
    ;;
esac
