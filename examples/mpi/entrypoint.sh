#!/bin/bash
# Every node: children run sshd until the job ends, the main node runs mpirun over all.
#
# MUSTER_HOSTFILE has a line for each node and its slots. The key that lets main in comes from the
# job's environment (see README.md): one baked into an image would belong to all who have the image.
set -euo pipefail

readonly PORT=${SSH_PORT:-2022} HOME_SSH=/root/.ssh
: "${MPI_SSH_KEY:?the private key of the job; see README.md}"

umask 077
mkdir -p "$HOME_SSH" /run/sshd
printf '%s\n' "$MPI_SSH_KEY" >"$HOME_SSH/id_ed25519"
ssh-keygen -y -f "$HOME_SSH/id_ed25519" >"$HOME_SSH/authorized_keys"
cat >"$HOME_SSH/config" <<EOF
Host *
  Port $PORT
  StrictHostKeyChecking no
  UserKnownHostsFile /dev/null
  LogLevel ERROR
EOF

if [[ $AWS_BATCH_JOB_NODE_INDEX != "$AWS_BATCH_JOB_MAIN_NODE_INDEX" ]]; then
    ssh-keygen -q -t ed25519 -N '' -f /run/sshd/host_key
    echo "node $AWS_BATCH_JOB_NODE_INDEX waits for $AWS_BATCH_JOB_MAIN_NODE_PRIVATE_IPV4_ADDRESS"
    exec /usr/sbin/sshd -D -e -p "$PORT" -h /run/sshd/host_key -o PermitRootLogin=prohibit-password \
        -o PasswordAuthentication=no -o UsePAM=no -o AuthorizedKeysFile="$HOME_SSH/authorized_keys"
fi

# Children start when main runs, so they are not there yet.
deadline=$((SECONDS + ${RENDEZVOUS_SECONDS:-120}))
while read -r address _; do
    until [[ $address == "${MUSTER_NODE_ADDRESSES%%,*}" ]] || ssh -n -o ConnectTimeout=5 "$address" true; do
        ((SECONDS < deadline)) || { echo "no sshd at $address in time" >&2; exit 1; }
        sleep 0.2
    done
done <"$MUSTER_HOSTFILE"

export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
echo "all $AWS_BATCH_JOB_NUM_NODES nodes are there"
mpirun --hostfile "$MUSTER_HOSTFILE" --map-by node ${MPIRUN_ARGS-} "$@"
