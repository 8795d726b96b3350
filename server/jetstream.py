"""Events to NATS JetStream, as CloudEvents 1.0 in structured mode (JSON). Knows NATS and CloudEvents; must not know
cursors.

The whole event is in the payload, so that it survives bridges that drop headers. `Nats-Msg-Id` is the event's id, by
which the stream drops what is published again within its window; later on consumers know it by `id`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import nats
import nats.errors
import nats.js.errors
from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.api import PubAck, StreamConfig

from server.domain.events import Event
from server.engine.event_ports import PublishFailed

log = logging.getLogger(__name__)

SOURCE = "/card-recycling"
TYPE = "card-recycling"
DEDUPLICATION_S = 600.0
"""How long the stream knows ids; a relay's successor begins again within seconds."""
CONNECT_TIMEOUT_S = 3.0
PUBLISH_TIMEOUT_S = 4.0


class JetStreamPublisher:
    """Publishes to one stream, which is made if it is missing, and must take our subjects if it is not."""

    def __init__(self, servers: Sequence[str], *, stream: str, subject: str, credentials: Path | None = None) -> None:
        self._servers = list(servers)
        self._stream = stream
        self._subject = subject
        self._credentials = credentials
        self._client: Client | None = None
        self._jetstream: JetStreamContext | None = None

    async def publish(self, events: Sequence[Event]) -> None:
        """See the port."""
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S + PUBLISH_TIMEOUT_S):
                jetstream = self._jetstream or await self._connect()
                # Written one after the other, so that they arrive in order; acknowledged all together.
                receipts = [await self._send(jetstream, event) for event in events]
                await asyncio.gather(*receipts)
        except PublishFailed:
            await self.close()
            raise
        except (OSError, TimeoutError, nats.errors.Error, nats.js.errors.Error) as error:
            # Begin again: whatever is on its way may arrive, and is known by its id.
            await self.close()
            raise PublishFailed(f"{type(error).__name__}: {error}") from error

    async def close(self) -> None:
        """See the port."""
        client, self._client, self._jetstream = self._client, None, None
        if client is not None:
            try:
                await asyncio.wait_for(client.close(), CONNECT_TIMEOUT_S)
            except (OSError, TimeoutError, nats.errors.Error) as error:
                log.info("the connection to NATS was dropped: %s", type(error).__name__)

    async def _send(self, jetstream: JetStreamContext, event: Event) -> asyncio.Future[PubAck]:
        """Writes an event; its receipt is to come."""
        return await jetstream.publish_async(
            f"{self._subject}.{_topic(event)}",
            cloud_event(event),
            stream=self._stream,
            headers={
                "Nats-Msg-Id": str(event.position.event_id),
                "Content-Type": "application/cloudevents+json",
            },
        )

    async def _connect(self) -> JetStreamContext:
        options: dict[str, Any] = {"user_credentials": str(self._credentials)} if self._credentials else {}
        # Without reconnects of its own: the relay has its own pauses, and must know what was lost.
        self._client = await nats.connect(
            self._servers,
            name="card-recycling-relay",
            connect_timeout=CONNECT_TIMEOUT_S,
            allow_reconnect=False,
            error_cb=_note,
            **options,
        )
        jetstream = self._client.jetstream(timeout=PUBLISH_TIMEOUT_S)
        await self._provide_stream(jetstream)
        self._jetstream = jetstream
        return jetstream

    async def _provide_stream(self, jetstream: JetStreamContext) -> None:
        """Makes the stream, or sees that the one there keeps what is published, and knows ids for long enough."""
        subjects = f"{self._subject}.>"
        try:
            config = (await jetstream.stream_info(self._stream)).config
        except nats.js.errors.NotFoundError:
            await jetstream.add_stream(
                StreamConfig(
                    name=self._stream,
                    description="Events of Card Recycling.",
                    subjects=[subjects],
                    duplicate_window=DEDUPLICATION_S,
                )
            )
            return
        if subjects not in (config.subjects or ()):
            raise PublishFailed(f"the stream {self._stream} does not take {subjects}")
        if (config.duplicate_window or 0) < DEDUPLICATION_S:
            raise PublishFailed(f"the stream {self._stream} must know duplicates for {DEDUPLICATION_S:g} s at least")
        if config.no_ack:
            raise PublishFailed(f"the stream {self._stream} acknowledges nothing")


def _topic(event: Event) -> str:
    """What follows in a subject: platform, source and kind; and the partner, who may be let read its own alone."""
    topic = f"{event.platform or '_'}.{event.source}.{event.kind.lower()}"
    return topic if event.redemption is None else f"{topic}.{event.redemption.partner}"


def cloud_event(event: Event) -> bytes:
    """An event as JSON. Amounts are integers of minor units; what does not apply is left out."""
    data = {
        "account_id": event.account_id,
        "card_id": event.card_id,
        "recycling_id": event.recycling_id,
        "request_id": event.request_id,
        "platform": event.platform,
        "kind": event.kind,
        "state": event.state,
        "version": event.position.version if event.state is not None else None,
        "generation": event.generation,
        "renewals_used": event.renewals_used,
        "activate_by_time": _utc(event.activate_by_time),
        "activate_time": _utc(event.activate_time),
        "expire_time": _utc(event.expire_time),
        "hold_until": _utc(event.hold_until),
        "unit": event.unit,
        "amount": event.amount,
    }
    if event.redemption is not None:
        data |= asdict(event.redemption) | {"expire_time": _utc(event.redemption.expire_time)}
    return msgspec.json.encode(
        {
            "specversion": "1.0",
            "id": str(event.position.event_id),
            "source": SOURCE,
            "type": f"{TYPE}.{event.source}.{event.kind.lower()}.v1",
            "subject": str(event.card_id or event.recycling_id or event.request_id),
            "time": _utc(event.position.event_time),
            "datacontenttype": "application/json",
            # CloudEvents' extension for partitioning: the events of one key stay in order.
            "partitionkey": event.account_id,
            "data": {name: value for name, value in data.items() if value is not None},
        }
    )


def _utc(moment: datetime | None) -> datetime | None:
    """msgspec writes UTC as Z."""
    return moment.astimezone(UTC) if moment else None


async def _note(error: Exception) -> None:
    log.info("NATS: %s: %s", type(error).__name__, error)
