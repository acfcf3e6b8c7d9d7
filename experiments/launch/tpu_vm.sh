#!/bin/bash
# One language model on a slice of TPU VMs, from your own machine with gcloud.
#
#     NAME=lm ZONE=us-east5-b BUCKET=gs://my-bucket experiments/launch/tpu_vm.sh create
#     NAME=lm ZONE=us-east5-b BUCKET=gs://my-bucket experiments/launch/tpu_vm.sh install
#     NAME=lm ZONE=us-east5-b BUCKET=gs://my-bucket experiments/launch/tpu_vm.sh train
#     NAME=lm ZONE=us-east5-b BUCKET=gs://my-bucket experiments/launch/tpu_vm.sh stop      # saves first
#     NAME=lm ZONE=us-east5-b BUCKET=gs://my-bucket experiments/launch/tpu_vm.sh delete
#
# `train` after a preemption, on a new slice of this size or another, goes on where the run stopped.
set -euo pipefail

: "${NAME:?name of the slice}" "${ZONE:?zone}" "${BUCKET:?gs:// bucket: every machine writes its part of a checkpoint}"
TYPE=${TYPE:-v6e-16}                          # 16 chips on 4 machines
VERSION=${VERSION:-v2-alpha-tpuv6e}

everywhere() { gcloud compute tpus tpu-vm ssh "$NAME" --zone="$ZONE" --worker=all --command="$1"; }

case "${1:?create, install, train, stop or delete}" in
create)
    # Spot slices cost a third; taken back, they are sent SIGTERM, and the run saves what it has.
    gcloud compute tpus tpu-vm create "$NAME" --zone="$ZONE" --accelerator-type="$TYPE" --version="$VERSION" --spot
    ;;
install)
    gcloud compute tpus tpu-vm scp --recurse --zone="$ZONE" --worker=all . "$NAME":jaxlib_ext
    # libtpu comes with jax[tpu], in the version that fits.
    everywhere 'cd jaxlib_ext && python3 -m venv ~/venv && ~/venv/bin/pip install -q -e ".[experiments,tpu]"'
    ;;
train)
    # The same command on every machine; they find each other by the TPU's metadata. One axis over the whole
    # slice: its network is fast everywhere. setsid and nohup: the run outlives this terminal.
    everywhere "cd jaxlib_ext || exit 1
        export JAX_COMPILATION_CACHE_DIR=$BUCKET/cache
        setsid nohup ~/venv/bin/python experiments/train.py \
            --out $BUCKET/runs/$NAME --data $BUCKET/tokens --mesh fsdp=16 \
            --batch 256 --time 2048 --steps 20000 > ~/train.log 2>&1 < /dev/null &
        echo \$! > ~/train.pid"
    echo "follow it: gcloud compute tpus tpu-vm ssh $NAME --zone=$ZONE --worker=0 --command='tail -f train.log'"
    ;;
stop)
    # To one machine is enough: all of them save the same step and leave.
    gcloud compute tpus tpu-vm ssh "$NAME" --zone="$ZONE" --worker=0 --command='kill -TERM "$(cat ~/train.pid)"'
    ;;
delete)
    gcloud compute tpus tpu-vm delete "$NAME" --zone="$ZONE"
    ;;
*)
    echo "unknown command $1" >&2
    exit 2
    ;;
esac
