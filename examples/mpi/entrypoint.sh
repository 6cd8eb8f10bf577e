#!/bin/bash
# Every node: children run sshd until the job ends, the main node runs mpirun over all.
#
# The key that lets main in comes from the hosts' secrets (see README.md): one baked into an image
# would belong to all who have the image.
set -euo pipefail

readonly PORT=${SSH_PORT:-2022} HOME_SSH=/root/.ssh
: "${MPI_SSH_KEY:?the private key of the job; see README.md}"
IFS=, read -ra addresses <<<"$MUSTER_NODE_ADDRESSES"
readonly OWN=${addresses[AWS_BATCH_JOB_NODE_INDEX]}

umask 077
mkdir -p "$HOME_SSH" /run/sshd
printf '%s\n' "$MPI_SSH_KEY" >"$HOME_SSH/id_ed25519"
ssh-keygen -y -f "$HOME_SSH/id_ed25519" >"$HOME_SSH/authorized_keys"
cat >"$HOME_SSH/config" <<EOF
Host *
  Port $PORT
  BatchMode yes
  StrictHostKeyChecking no
  UserKnownHostsFile /dev/null
  LogLevel ERROR
EOF

if [[ $AWS_BATCH_JOB_NODE_INDEX != "$AWS_BATCH_JOB_MAIN_NODE_INDEX" ]]; then
    ssh-keygen -q -t ed25519 -N '' -f /run/sshd/host_key
    echo "node $AWS_BATCH_JOB_NODE_INDEX waits for $AWS_BATCH_JOB_MAIN_NODE_PRIVATE_IPV4_ADDRESS"
    exec /usr/sbin/sshd -D -e -p "$PORT" -h /run/sshd/host_key -o ListenAddress="$OWN" \
        -o PermitRootLogin=prohibit-password -o PasswordAuthentication=no -o UsePAM=no \
        -o AuthorizedKeysFile="$HOME_SSH/authorized_keys"
fi

# Children start when main runs, so they are not there yet.
deadline=$((SECONDS + ${RENDEZVOUS_SECONDS:-120}))
for address in "${addresses[@]}"; do
    until [[ $address == "$OWN" ]] || refusal=$(ssh -n -o ConnectTimeout=5 "$address" true 2>&1); do
        ((SECONDS < deadline)) || { echo "no sshd at $address in time: $refusal" >&2; exit 1; }
        sleep 0.2
    done
done

export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
echo "all $AWS_BATCH_JOB_NUM_NODES nodes are there"
# Not a child of this shell, which as the first process would keep SIGTERM to itself.
# shellcheck disable=SC2086
exec mpirun --hostfile "$MUSTER_HOSTFILE" --map-by node ${MPIRUN_ARGS-} "$@"
