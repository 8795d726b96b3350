"""OpenTelemetry's SDK and structured logs, set up once, by a composition root.

Spans and metrics go where the standard variables say: OTEL_EXPORTER_OTLP_ENDPOINT (or ..._TRACES_ENDPOINT,
..._METRICS_ENDPOINT), or OTEL_TRACES_EXPORTER and OTEL_METRICS_EXPORTER (otlp or console), switch export on,
OTEL_EXPORTER_OTLP_PROTOCOL chooses grpc or http/protobuf, OTEL_TRACES_SAMPLER the share of traces kept,
OTEL_METRIC_EXPORT_INTERVAL how often metrics leave. With none nothing is exported, and trace ids still go into logs and
errors. Metrics may also be read by Prometheus, from a port of our own.
"""

from __future__ import annotations

import logging
import os
import sys

import structlog
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    ConsoleMetricExporter,
    MetricExporter,
    MetricReader,
    PeriodicExportingMetricReader,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF


def set_up_tracing(service_name: str) -> TracerProvider:
    """The process's tracer provider; shut it down at the end, so that the last spans leave.

    OTEL_SERVICE_NAME overrides `service_name`.
    """
    resource = _resource(service_name)
    if _exports("TRACES"):
        provider = TracerProvider(resource=resource)
        provider.add_span_processor(BatchSpanProcessor(_span_exporter()))
    else:
        provider = TracerProvider(resource=resource, sampler=ALWAYS_OFF)
    trace.set_tracer_provider(provider)
    return provider


def set_up_metrics(service_name: str, *, listen: str = "") -> MeterProvider:
    """The process's meter provider; shut it down at the end, so that the last counts leave.

    `listen`: HOST:PORT at which Prometheus may read them, empty for nowhere. Raises OSError when it is taken. Where
    nobody reads metrics none are kept.
    """
    readers: list[MetricReader] = []
    if _exports("METRICS"):
        readers.append(PeriodicExportingMetricReader(_metric_exporter()))
    if listen:
        readers.append(_prometheus(listen))
    provider = MeterProvider(readers, resource=_resource(service_name))
    if readers:
        metrics.set_meter_provider(provider)
    return provider


def _resource(service_name: str) -> Resource:
    return Resource.create({"service.name": os.environ.get("OTEL_SERVICE_NAME", service_name)})


def _prometheus(listen: str) -> MetricReader:
    from opentelemetry.exporter.prometheus import PrometheusMetricReader
    from prometheus_client import CollectorRegistry, start_http_server

    host, _, port = listen.rpartition(":")
    registry = CollectorRegistry()
    start_http_server(int(port), host.strip("[]"), registry=registry)
    return PrometheusMetricReader(registry=registry)


def _exports(signal: str) -> bool:
    if os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return False
    if exporter := os.environ.get(f"OTEL_{signal}_EXPORTER"):
        return exporter in ("otlp", "console")
    return bool(_setting(signal, "ENDPOINT"))


def _span_exporter() -> SpanExporter:
    if os.environ.get("OTEL_TRACES_EXPORTER") == "console":
        return ConsoleSpanExporter(out=sys.stderr)
    if _setting("TRACES", "PROTOCOL") == "http/protobuf":
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpExporter

        return HttpExporter()
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

    return OTLPSpanExporter()


def _metric_exporter() -> MetricExporter:
    if os.environ.get("OTEL_METRICS_EXPORTER") == "console":
        return ConsoleMetricExporter(out=sys.stderr)
    if _setting("METRICS", "PROTOCOL") == "http/protobuf":
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter as HttpExporter

        return HttpExporter()
    from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter

    return OTLPMetricExporter()


def _setting(signal: str, setting: str) -> str | None:
    """An exporter setting; the one for this signal alone goes before the one for all."""
    return os.environ.get(f"OTEL_EXPORTER_OTLP_{signal}_{setting}") or os.environ.get(f"OTEL_EXPORTER_OTLP_{setting}")


def set_up_logs(level: str) -> None:
    """JSON lines on standard error, each with the trace it belongs to."""
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[
            structlog.stdlib.add_log_level,
            structlog.stdlib.add_logger_name,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _add_trace,
            structlog.processors.format_exc_info,
        ],
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, structlog.processors.JSONRenderer()],
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    logging.basicConfig(level=level, handlers=[handler], force=True)


def _add_trace(_: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    span = trace.get_current_span().get_span_context()
    if span.is_valid:
        event["trace_id"] = trace.format_trace_id(span.trace_id)
        event["span_id"] = trace.format_span_id(span.span_id)
    return event
