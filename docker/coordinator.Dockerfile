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
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels \
    pip install --no-cache-dir "$(echo /wheels/*.whl)[otel]"
COPY --chmod=0644 docker/check_coordinator.py /usr/local/lib/hyperfl/check_coordinator.py

RUN groupadd --gid 10001 hyperfl \
    && useradd --no-log-init --no-create-home --uid 10001 --gid 10001 \
        --home-dir /var/lib/hyperfl --shell /usr/sbin/nologin hyperfl \
    && install --directory --owner=hyperfl --group=hyperfl --mode=0700 /var/lib/hyperfl
USER 10001:10001
WORKDIR /var/lib/hyperfl
VOLUME ["/var/lib/hyperfl"]

ENV HOME=/var/lib/hyperfl \
    HYPERFL_DATA_DIR=/var/lib/hyperfl \
    HYPERFL_HOST=0.0.0.0
EXPOSE 8400
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s --start-interval=2s --retries=3 \
    CMD ["python", "/usr/local/lib/hyperfl/check_coordinator.py"]
ENTRYPOINT ["hyperfl"]
CMD ["coordinator", "serve"]
