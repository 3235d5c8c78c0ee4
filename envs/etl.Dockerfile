# CPU machines: initial conditions, manifests, reports. The workflow itself travels with every job.
#   docker build -f envs/etl.Dockerfile -t REGION-docker.pkg.dev/PROJECT/aifs/etl:VERSION .
FROM python:3.11-slim-bookworm

COPY envs/etl.lock /tmp/etl.lock
RUN pip install --no-cache-dir --no-deps --requirement /tmp/etl.lock \
 && rm /tmp/etl.lock

# whoever runs the jobs owns nothing but scratch and a home
RUN useradd --create-home --uid 1000 aifs \
 && install --directory --owner aifs /scratch /scratch/aifs-ensemble
USER aifs
ENV HOME=/home/aifs PYTHONUNBUFFERED=1

# for the health check alone: jobs bring their own copy of the library and the configuration
COPY --chown=aifs scripts /opt/aifs-ensemble/scripts
COPY --chown=aifs config /opt/aifs-ensemble/config
HEALTHCHECK --interval=5m --timeout=30s --start-period=10s \
  CMD cd /opt/aifs-ensemble && PYTHONPATH=scripts python -m aifs_ensemble doctor --role cpu
WORKDIR /scratch
