#!/bin/sh
# torchrun on every node; the arguments are train.py's. Main is where all meet, and is at the address
# that AWS Batch tells children and that every node finds among MUSTER_NODE_ADDRESSES.
set -eu
rest=$MUSTER_NODE_ADDRESSES, i=0
while [ "$i" -lt "$AWS_BATCH_JOB_MAIN_NODE_INDEX" ]; do rest=${rest#*,} i=$((i + 1)); done
main=${AWS_BATCH_JOB_MAIN_NODE_PRIVATE_IPV4_ADDRESS:-${rest%%,*}}
own=$(hostname -i 2>/dev/null || true)
echo "node $AWS_BATCH_JOB_NODE_INDEX at ${own:-?} meets all at $main"
exec python3 -m torch.distributed.run --nnodes "$AWS_BATCH_JOB_NUM_NODES" \
    --node-rank "$AWS_BATCH_JOB_NODE_INDEX" --nproc-per-node 1 \
    --master-addr "$main" --master-port "${MASTER_PORT:-29500}" /opt/example/train.py "$@"
