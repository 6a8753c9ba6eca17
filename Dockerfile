# graftwork on a CPU. Build: docker build -t graftwork .   Run: docker run --rm -v "$PWD:/work" graftwork search --data letters
FROM python:3.12-slim-bookworm AS wheel
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.12-slim-bookworm
# The compiler builds the CPU passes when they are first used.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --no-install-recommends --yes gcc libc6-dev libgomp1 \
    && rm -rf /var/lib/apt/lists/*
COPY --from=wheel /wheels /wheels
COPY constraints.txt /wheels/
# --build-arg PIP_EXTRA_INDEX_URL=... names PyTorch's index of CPU builds; PyPI's torch brings gigabytes of CUDA along.
ARG PIP_EXTRA_INDEX_URL=
RUN pip install --no-cache-dir --constraint /wheels/constraints.txt /wheels/*.whl \
    && useradd --create-home --uid 1000 graftwork
USER 1000
WORKDIR /work
ENTRYPOINT ["graftwork"]
CMD ["--help"]
