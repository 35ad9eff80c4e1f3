#!/usr/bin/env bash
# A SLURM job that requeues itself: before its time limit, or when preempted, the run saves, the job is queued again and
# resumes from last.ckpt. Arguments after the script are passed to `omni fit`:
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
# One task per GPU. `--signal` goes to the run, not to this script, 120 s before the end: time for a step (with several
# GPUs up to `log_every_n_steps` of them) and a checkpoint.
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

if [ "$code" -eq 143 ]; then  # stopped by SIGTERM and saved; any other code is final
  scontrol requeue "$SLURM_JOB_ID"
  code=0
fi
exit "$code"
