#!/usr/bin/env bash
# A job of SLURM that lasts as long as it takes: before its time is up, or when others go first, the run saves and the
# job is queued again, and goes on from last.ckpt. What follows the script is given to `omni fit`:
#   sbatch configs/launch/slurm.sh --config configs/audio.yaml --data.init_args.train train.jsonl ...
#SBATCH --job-name=omni
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=4
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=8
#SBATCH --time=08:00:00
#SBATCH --requeue
#SBATCH --signal=TERM@120
#SBATCH --open-mode=append
#SBATCH --output=omni-%j.log
# One task for each GPU. `--signal` tells the run, not this script, 120 s before the end: a step, up to
# `log_every_n_steps` of them with several GPUs, and a checkpoint have to fit in.
set -euo pipefail

cd "${SLURM_SUBMIT_DIR:-.}"
if [ -f .venv/bin/activate ]; then
  . .venv/bin/activate
fi

code=0
srun --kill-on-bad-exit=1 omni fit \
  --trainer.strategy ddp \
  --trainer.num_nodes "$SLURM_NNODES" \
  --trainer.devices "$SLURM_NTASKS_PER_NODE" \
  --ckpt_path auto \
  "$@" || code=$?

if [ "$code" -eq 143 ]; then  # stopped by SIGTERM, and saved; anything else is an end, or a mistake to look at
  scontrol requeue "$SLURM_JOB_ID"
  code=0
fi
exit "$code"
