#!/usr/bin/env bash
# A sweep as a Slurm array, over a file system that all nodes share:
#
#   sbatch --array=0-7 experiments/launch/slurm.sh experiments/sweeps/algorithms.py ROOT
#
# Each task takes its share by SLURM_ARRAY_TASK_ID and SLURM_ARRAY_TASK_COUNT. A preempted task is
# queued again and resumes. Arguments after the two are passed on, e.g. --evaluate=later.
#SBATCH --job-name=proco-sweep
#SBATCH --gres=gpu:1
#SBATCH --cpus-per-task=8
#SBATCH --mem=32G
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=sweep-%A_%a.log
set -euo pipefail
sweep=$1 root=$2
shift 2
export MINARI_DATASETS_PATH=${MINARI_DATASETS_PATH:-$root/data}
# Slurm runs a copy of this file, so paths are those of the folder of submission.
cd "$SLURM_SUBMIT_DIR"
srun uv run --no-sync python -m proco_jax.sweep --sweep="$sweep" --workdir="$root" "$@"
