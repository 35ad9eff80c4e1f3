#!/usr/bin/env bash
# A SLURM array of workers on one sweep; each takes one GPU and runs trials until the budget of the sweep is spent. Their
# study is in a database, or in a journal file on a file system that all nodes share:
#   sbatch configs/launch/sweep_array.sh SWEEP.yaml --storage postgresql://USER:PASSWORD@HOST/DATABASE
# A worker that is preempted, or at its time limit, lets its trial save; any worker resumes it.
#SBATCH --job-name=omni-sweep
#SBATCH --array=0-7
#SBATCH --ntasks=1
#SBATCH --gpus=1
#SBATCH --cpus-per-task=8
#SBATCH --time=08:00:00
#SBATCH --requeue
#SBATCH --signal=TERM@120
#SBATCH --open-mode=append
#SBATCH --output=omni-sweep-%A_%a.log
set -euo pipefail

cd "${SLURM_SUBMIT_DIR:-.}"
if [ -f .venv/bin/activate ]; then
  . .venv/bin/activate
fi

code=0
srun omni sweep "$@" --jobs 1 || code=$?

if [ "$code" -eq 143 ]; then  # stopped by SIGTERM and saved; any other code is final
  scontrol requeue "$SLURM_JOB_ID"
  code=0
fi
exit "$code"
