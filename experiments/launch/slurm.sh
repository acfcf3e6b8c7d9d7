#!/bin/bash
# One language model on 4 GPU nodes of 8 GPUs under SLURM.
#
#     sbatch experiments/launch/slurm.sh
#
# Submitted several times with --dependency=singleton, each job goes on where the one before it stopped, and the first
# that finds the run finished ends at once. Edit the lines of this head to your cluster.
#SBATCH --job-name=lm
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1          # one process a node, which then drives all GPUs of the node
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=32
#SBATCH --mem=0
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@180            # 3 minutes before the end: all processes save the same step and leave
#SBATCH --requeue                    # after a preemption or a node failure the job starts again, and goes on
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log

set -euo pipefail

# The folder must be on a file system that all nodes share, or gs://.
OUT=${OUT:-$SLURM_SUBMIT_DIR/runs/lm}

# jax warns that a proxy can keep the processes from finding each other.
unset http_proxy https_proxy HTTP_PROXY HTTPS_PROXY

# A job that starts again finds its compiled programs.
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$SLURM_SUBMIT_DIR/.cache/jax}

# srun is what makes processes of it: without, Python would be one process on the first node. The processes find each
# other by SLURM's variables. dcn.data=4 keeps everything but the sum of gradients within a node.
# When one of them dies, the others name it and exit with status 1; kill-on-bad-exit sweeps up behind them.
srun --kill-on-bad-exit=1 python experiments/train.py \
    --out "$OUT" \
    --data "${DATA:-stdlib}" \
    --mesh dcn.data=4,fsdp=8 \
    --batch 256 --time 2048 --steps 20000
