# syntax=docker/dockerfile:1
# The wheel is built in a stage of its own, so that sources and build tools stay out of the image.
FROM python:3.12-slim AS wheel
WORKDIR /src
COPY . .
RUN python -m pip install --no-cache-dir "build==1.6.1" \
 && python -m build --wheel --outdir /wheels

FROM python:3.12-slim
LABEL org.opencontainers.image.title="szpo" \
      org.opencontainers.image.description="Zeroth-order policy optimisation from human comparisons" \
      org.opencontainers.image.licenses="Apache-2.0"
# Which extras are installed, and where torch comes from: the default index has the build for CUDA,
# the index of the CPU build makes a much smaller image.
ARG EXTRAS=ui,judge
ARG TORCH_INDEX=""
ENV PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore \
    MPLCONFIGDIR=/tmp/matplotlib \
    SZPO_CACHE=/data/cache \
    HF_HOME=/data/hub
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
COPY constraints.txt deploy/requirements.txt deploy/torch.txt /tmp/
# Every file is held to its hash (make hashes), but for torch from another index, whose builds are
# its own, and for what further extras bring.
# Versions come from these files, which the linter does not see.
# hadolint ignore=DL3013
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels \
    if [ -z "$TORCH_INDEX" ]; then \
        python -m pip install --no-cache-dir --no-deps --require-hashes -r /tmp/torch.txt; \
    else \
        python -m pip install --no-cache-dir --no-deps --index-url "$TORCH_INDEX" \
            "$(grep '^torch==' /tmp/constraints.txt)"; \
    fi \
 && python -m pip install --no-cache-dir --no-deps --require-hashes -r /tmp/requirements.txt \
 && python -m pip install --no-cache-dir -c /tmp/constraints.txt \
        "szpo[${EXTRAS}] @ file://$(echo /wheels/*.whl)" \
 && useradd --create-home --uid 10001 szpo \
 && install --directory --owner=szpo --group=szpo --mode=700 /data /data/runs
USER 10001
WORKDIR /data
VOLUME /data
# Of the web process; a container that holds the model has no port and switches this off.
HEALTHCHECK --interval=30s --timeout=5s --start-period=120s --retries=3 \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:7860/healthz', timeout=4)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["szpo"]
CMD ["--help"]
