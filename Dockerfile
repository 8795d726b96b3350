# Two images from one file: `server` (also used, by command, for migrations and policies) and `worker`.
#
#   docker build --target server --tag card-recycling-server .
#   docker build --target worker --tag card-recycling-worker .
#
# The base is pinned by tag. For reproducible builds pin it by digest too: docker buildx imagetools inspect BASE tells
# the digest, and the line becomes ARG BASE=python:3.11-slim-bookworm@sha256:...
ARG BASE=python:3.11-slim-bookworm


FROM ${BASE} AS packages
RUN python -m venv /opt/venv
COPY requirements.lock .
RUN /opt/venv/bin/pip install --no-cache-dir --disable-pip-version-check --require-hashes -r requirements.lock


FROM ${BASE} AS runtime
RUN useradd --uid 10001 --home-dir /nonexistent --no-create-home --shell /usr/sbin/nologin recycling
COPY --from=packages /opt/venv /opt/venv
WORKDIR /app
# The code runs from its folder; protos/ is the root of the generated stubs. Nothing is written at run time but /tmp.
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONPATH=/app:/app/protos \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
COPY protos protos
COPY migrations migrations
COPY process process


FROM runtime AS worker
# LightGBM needs GNU OpenMP.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libgomp1 \
    && rm -rf /var/lib/apt/lists/*
COPY fraud_worker fraud_worker
RUN python -m compileall -q protos migrations process fraud_worker
USER recycling
EXPOSE 50052
HEALTHCHECK --interval=5s --timeout=5s --start-period=30s --retries=3 CMD ["python", "-c", \
    "import grpc, sys; from grpc_health.v1 import health_pb2 as m, health_pb2_grpc as s; sys.exit(s.HealthStub(grpc.insecure_channel('localhost:50052')).Check(m.HealthCheckRequest(), timeout=3).status != 1)"]
# [::] is IPv6 and IPv4. There is no TLS: the port is for the server's network only.
CMD ["python", "-m", "fraud_worker", "serve", "--listen", "[::]:50052", "--insecure-plaintext"]


FROM runtime AS server
COPY policies policies
COPY server server
RUN python -m compileall -q protos migrations process policies server
USER recycling
# Outside of loopback the server listens only when INSECURE_PLAINTEXT is set, which is left to whoever runs the image.
ENV LISTEN=[::]:50051
EXPOSE 50051
HEALTHCHECK --interval=5s --timeout=5s --start-period=30s --retries=3 CMD ["python", "-c", \
    "import grpc, sys; from grpc_health.v1 import health_pb2 as m, health_pb2_grpc as s; sys.exit(s.HealthStub(grpc.insecure_channel('localhost:50051')).Check(m.HealthCheckRequest(), timeout=3).status != 1)"]
CMD ["python", "-m", "server"]
