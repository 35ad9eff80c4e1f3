# omni for training and inference on NVIDIA GPUs and CPUs; CUDA is part of PyTorch's wheels.
#   docker build --tag omni .
#   docker run --rm --init --gpus all --shm-size 8g --stop-timeout 120 --user "$(id -u):$(id -g)" \
#     -v "$PWD/data:/omni/data" -v "$PWD/lightning_logs:/omni/lightning_logs" \
#     omni fit --config configs/audio.yaml --ckpt_path auto
FROM python:3.12-slim

# torch.compile needs a compiler
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /omni
ENV HOME=/tmp PYTHONUNBUFFERED=1

# Dependencies only: this layer is cached until they change
COPY pyproject.toml constraints.txt README.md LICENSE ./
RUN mkdir omni \
    && echo '__version__ = "0"' > omni/__init__.py \
    && pip install --no-cache-dir --constraint constraints.txt --editable '.[world,hf,serve]'

COPY omni omni
COPY configs configs

ENTRYPOINT ["omni"]
CMD ["--help"]
