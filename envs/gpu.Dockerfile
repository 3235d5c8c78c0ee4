# GPU machines: the forecast job. The workflow itself travels with every job.
#   docker build -f envs/gpu.Dockerfile -t REGION-docker.pkg.dev/PROJECT/aifs/gpu:VERSION .
#
# No nvidia/cuda base: torch's wheels bring the CUDA libraries they use, the host brings the driver.
# No flash-attn and so no nvcc: the attention is torch's own, compiled on the machine by Triton, which needs a
# C compiler there (and torch.compile a C++ one for what stays on the CPU).
FROM python:3.11-slim-bookworm

RUN apt-get update \
 && apt-get install --yes --no-install-recommends gcc g++ libc6-dev \
 && rm -rf /var/lib/apt/lists/*

COPY envs/gpu.lock /tmp/gpu.lock
RUN pip install --no-cache-dir --no-deps --requirement /tmp/gpu.lock \
 && rm /tmp/gpu.lock

# the packages of other models than v1, each set in a folder of its own: `aifs_ensemble.common.overlays` chooses
COPY envs/overlays /tmp/overlays
RUN for lock in /tmp/overlays/*.lock; do \
      pip install --no-cache-dir --no-deps --target "/usr/local/overlays/$(basename "$lock" .lock)" --requirement "$lock" \
      || exit 1; \
    done \
 && rm -r /tmp/overlays

RUN useradd --create-home --uid 1000 aifs \
 && install --directory --owner aifs /scratch /scratch/aifs-ensemble
USER aifs
# where Google Batch and Coiled put the host's driver; the NVIDIA runtime reads the other two
ENV HOME=/home/aifs PYTHONUNBUFFERED=1 \
    PATH=/usr/local/nvidia/bin:$PATH LD_LIBRARY_PATH=/usr/local/nvidia/lib64 \
    NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility

COPY --chown=aifs scripts /opt/aifs-ensemble/scripts
COPY --chown=aifs config /opt/aifs-ensemble/config
HEALTHCHECK --interval=5m --timeout=30s --start-period=30s \
  CMD cd /opt/aifs-ensemble && PYTHONPATH=scripts python -m aifs_ensemble doctor --role gpu
WORKDIR /scratch
