#!/usr/bin/env bash
# All GPUs of one machine, or of several, by torchrun. Arguments are passed to `omni fit`:
#   configs/launch/torchrun.sh --config configs/audio.yaml --data.init_args.train train.jsonl --data.init_args.val dev.jsonl
# On several machines with a shared folder of runs, start it on each, with its number as NODE:
#   NODES=2 NODE=0 MASTER=first-machine configs/launch/torchrun.sh --config configs/audio.yaml ...
# Started again, it resumes from last.ckpt. torchrun forwards SIGTERM to the run, which saves, and waits 30 s for it.
set -euo pipefail

gpus="${GPUS:-$(nvidia-smi --list-gpus | wc -l)}"  # processes per machine
nodes="${NODES:-1}"

exec torchrun \
  --nnodes "$nodes" \
  --node-rank "${NODE:-0}" \
  --nproc-per-node "$gpus" \
  --master-addr "${MASTER:-localhost}" \
  --master-port "${PORT:-29500}" \
  --no-python \
  omni fit --trainer.strategy ddp --trainer.num_nodes "$nodes" --trainer.devices "$gpus" --ckpt_path auto "$@"
