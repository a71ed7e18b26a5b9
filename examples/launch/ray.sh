#!/bin/sh
# Train at a server on a Ray cluster: every replica is a Ray task that goes by its own clock.
#
#   ray get-auth-token --generate                     once; copy ~/.ray/auth_token to all machines, or set RAY_AUTH_TOKEN there
#   ./ray.sh head                                     on the first machine; stays in the foreground, Ctrl-C ends it
#   ./ray.sh join first:6379                          on every other one; likewise
#   ./ray.sh train first:6379 -a server-sgd -n 8 --quorum "ramp(1, n, every=300)" -m lenet -d mnist
#
# Without a cluster: `parle train --ray local -a server-sgd -n 4`. Who reaches a Ray cluster can run programs there, and nothing is
# encrypted: use a private network, and the token (RAY_AUTH_MODE=disabled does without).
set -eu

what=${1:?usage: ray.sh head | join ADDRESS | train ADDRESS [options of parle train]}
shift
export RAY_AUTH_MODE="${RAY_AUTH_MODE:-token}"
if [ "$RAY_AUTH_MODE" = token ] && [ -z "${RAY_AUTH_TOKEN:-}${RAY_AUTH_TOKEN_PATH:-}" ] && [ ! -e "$HOME/.ray/auth_token" ]; then
    echo "ray.sh: there is no token. Make one on the first machine with \`ray get-auth-token --generate\`, and copy ~/.ray/auth_token to the others." >&2
    exit 3
fi

case $what in
head) exec ray start --head --port "${PORT:-6379}" --include-dashboard=false --disable-usage-stats --block ;;
join) exec ray start --address "${1:?usage: ray.sh join ADDRESS}" --disable-usage-stats --block ;;
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
