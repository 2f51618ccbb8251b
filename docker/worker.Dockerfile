# syntax=docker/dockerfile:1
FROM python:3.11-slim-trixie AS wheel
WORKDIR /src
COPY pyproject.toml README.md LICENSE hyperfl_command.py ./
COPY coordinator ./coordinator
COPY worker ./worker
COPY shared ./shared
COPY migrations ./migrations
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.11-slim-trixie
ENV PIP_ROOT_USER_ACTION=ignore \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PYTHONUNBUFFERED=1
# PyTorch has a layer of its own, so that a change of the code does not fetch gigabytes again. The
# versions are those of pyproject.toml: what satisfies them here is not exchanged by the next step.
# Without TORCH_INDEX_URL they come from where pip finds everything else.
ARG TORCH_INDEX_URL=
# Lower bounds, as in pyproject.toml, and no pins:
# hadolint ignore=DL3013
RUN pip install --no-cache-dir ${TORCH_INDEX_URL:+--index-url "$TORCH_INDEX_URL"} \
    "torch>=2.14" "torchvision>=0.29"
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels \
    pip install --no-cache-dir "$(echo /wheels/*.whl)[worker,otel]"

RUN groupadd --gid 10001 hyperfl \
    && useradd --no-log-init --no-create-home --uid 10001 --gid 10001 \
        --home-dir /var/lib/hyperfl --shell /usr/sbin/nologin hyperfl \
    && install --directory --owner=hyperfl --group=hyperfl --mode=0700 /var/lib/hyperfl
USER 10001:10001
WORKDIR /var/lib/hyperfl
VOLUME ["/var/lib/hyperfl"]

ENV HOME=/var/lib/hyperfl \
    HYPERFL_WORKER_CONFIG=/etc/hyperfl/worker.toml
# A worker has no port, and ends with 1 when it cannot work: the restart policy acts on that. What
# could be checked in here (the file parses, the folder is writable) holds for a stuck worker too.
# Whether it works is seen where its polls arrive: hyperfl client list, column "last seen at".
HEALTHCHECK NONE
ENTRYPOINT ["hyperfl"]
CMD ["worker", "run"]
