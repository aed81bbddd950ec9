# The pipeline, on a GPU where there is one. The repository itself is mounted, so that data, models and experiments stay
# on the host, and belong to who started it:
#
#   docker build -f dockerfiles/train.Dockerfile -t ai-art-detector-train .
#   docker run --rm --gpus all --shm-size 1g --user "$(id -u):$(id -g)" -v "$PWD:/work" ai-art-detector-train
#
# With CIFAKE: -v ~/Downloads/cifake.zip:/cifake.zip:ro -e CIFAKE_SOURCE=/cifake.zip. Without --gpus it runs on the CPU.
# Another command than `dvc repro` follows the image's name, as in: ... ai-art-detector-train dvc exp run -S model=vit_tiny

# PyTorch comes with CUDA, the driver is the host's
FROM python:3.13-slim

# the mounted repository is another user's than git in the container expects
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends git make && rm -rf /var/lib/apt/lists/* \
    && git config --system --add safe.directory /work
COPY requirements.txt requirements-torch.txt /
RUN pip install --no-cache-dir --no-deps -r /requirements.txt && pip install --no-cache-dir --no-deps -r /requirements-torch.txt

WORKDIR /work
# USER: DVC asks who it is, and whoever --user names has no entry in /etc/passwd
ENV HOME=/tmp USER=detector NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 10001:10001
CMD ["dvc", "repro"]
