# The server, the worker and the command line in one image. compose.yaml runs it with a database and a broker; alone, on
# its embedded database in a volume:
#
#   docker build -t bigmarket:local .
#   docker run -p 127.0.0.1:8091:8091 -v bigmarket:/var/lib/bigmarket \
#     -e BIGMARKET_HOST=0.0.0.0 -e BIGMARKET_SERVER_KEYS="$(openssl rand -hex 24)" bigmarket:local

ARG PYTHON=3.11-slim-bookworm

FROM python:${PYTHON} AS build
ENV PYTHONDONTWRITEBYTECODE=1 \
    UV_CACHE_DIR=/var/cache/uv \
    UV_COMPILE_BYTECODE=1 \
    UV_LINK_MODE=copy \
    UV_PROJECT_ENVIRONMENT=/opt/bigmarket \
    UV_PYTHON=/usr/local/bin/python3 \
    UV_PYTHON_DOWNLOADS=never
RUN pip install --no-cache-dir --disable-pip-version-check uv==0.13.8
WORKDIR /build
# What it depends on changes seldom, and is a layer of its own.
COPY pyproject.toml uv.lock ./
RUN --mount=type=cache,target=/var/cache/uv uv sync --frozen --no-dev --no-install-project
COPY LICENSE README.md ./
COPY examples/100301.yaml examples/
COPY src src
RUN --mount=type=cache,target=/var/cache/uv uv sync --frozen --no-dev --no-editable

FROM python:${PYTHON}
LABEL org.opencontainers.image.title="bigmarket" \
      org.opencontainers.image.description="An open-source raffle and rewards engine" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN groupadd --system --gid 10001 bigmarket \
    && useradd --system --uid 10001 --gid bigmarket --no-log-init --shell /usr/sbin/nologin \
       --home-dir /var/lib/bigmarket --create-home bigmarket
COPY --from=build /opt/bigmarket /opt/bigmarket
ENV PATH=/opt/bigmarket/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    BIGMARKET_HOME=/var/lib/bigmarket \
    BIGMARKET_LOG_FORMAT=json
WORKDIR /var/lib/bigmarket
VOLUME ["/var/lib/bigmarket"]
USER 10001:10001
EXPOSE 8091
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --start-interval=1s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen('http://127.0.0.1:' + os.environ.get('BIGMARKET_PORT', '8091') + '/healthz', timeout=3)"]
ENTRYPOINT ["bigmarket"]
CMD ["serve"]
