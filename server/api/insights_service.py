"""InsightsService: how the service fares as a whole. Questions and reports to messages; must not know any figure."""

from __future__ import annotations

import msgspec
from card_recycling.v1 import insights_service_pb2 as pb
from card_recycling.v1 import insights_service_pb2_grpc
from google.protobuf.json_format import ParseDict

from server.api.guard import Context, Served
from server.api.requests import CommandParser
from server.domain.model_health import HealthReport, ModelHealth
from server.engine.model_health import ModelHealthReporter


class InsightsServicer(insights_service_pb2_grpc.InsightsServiceServicer):
    """Shows how the service fares as a whole."""

    def __init__(self, reporter: ModelHealthReporter, parser: CommandParser) -> None:
        self._reporter = reporter
        self._parser = parser

    async def GetModelHealth(self, request: pb.GetModelHealthRequest, context: Context) -> Served:
        """See the proto."""
        return report_message(await self._reporter.report(self._parser.health_question(request)))


def report_message(report: HealthReport) -> pb.GetModelHealthResponse:
    """How the models fare."""
    message = pb.GetModelHealthResponse(
        rows_max=report.rows_max,
        rows=report.rows,
        degraded_rows=report.degraded_rows,
        models=map(_model_message, report.models),
    )
    for use in report.conversion_models:
        heard = message.conversion_models.add(model_version=use.model_version, rows=use.rows)
        heard.last_time.FromDatetime(use.last_time)
    message.from_time.FromDatetime(report.recent.from_time)
    message.to_time.FromDatetime(report.recent.to_time)
    message.mature_from_time.FromDatetime(report.mature.from_time)
    message.mature_to_time.FromDatetime(report.mature.to_time)
    return message


def _model_message(model: ModelHealth) -> pb.ModelHealth:
    # The figures have the names of the contract's fields.
    message: pb.ModelHealth = ParseDict(msgspec.to_builtins(model.figures), pb.ModelHealth())
    message.model_version = model.model_version
    message.rows = model.rows
    if model.last_time is not None:
        message.last_time.FromDatetime(model.last_time)
    if model.figures.alert_rate_expected is not None:
        message.alert_rate_expected = model.figures.alert_rate_expected
    return message
