"""A real NATS server with JetStream, which tests may kill and start again on its data."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import nats
from nats.js import JetStreamContext
from nats.js.api import ConsumerConfig, DeliverPolicy
from nats.js.errors import NotFoundError

PATIENCE_S = 30.0


class NatsServer:
    """One server on a port of its own; `start` and `kill` as often as wanted."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.url = f"nats://127.0.0.1:{self.port}"
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        """Returns when it takes connections."""
        binary = Path(sys.executable).parent / "nats-server"
        arguments = [binary, "-a", "127.0.0.1", "-p", str(self.port), "-js", "-sd", self._folder]
        self._process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "--", *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        async with asyncio.timeout(PATIENCE_S):
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                except OSError:
                    await asyncio.sleep(0.02)
                else:
                    writer.close()
                    return

    def kill(self) -> None:
        """Ends it as a crash would."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    @contextlib.asynccontextmanager
    async def jetstream(self) -> AsyncIterator[JetStreamContext]:
        """A client of its own."""
        client = await nats.connect(self.url, allow_reconnect=False, connect_timeout=5)
        try:
            yield client.jetstream()
        finally:
            await client.close()

    async def published(self, stream: str) -> list[dict[str, Any]]:
        """Every message that the stream holds, in order: the CloudEvents, with `_subject` and `_id` of the message."""
        async with self.jetstream() as jetstream:
            try:
                wanted = (await jetstream.stream_info(stream)).state.messages
            except NotFoundError:
                return []
            found: list[dict[str, Any]] = []
            config = ConsumerConfig(deliver_policy=DeliverPolicy.ALL)
            subscription = await jetstream.pull_subscribe(">", stream=stream, config=config)
            while len(found) < wanted:
                for message in await subscription.fetch(min(200, wanted - len(found)), timeout=PATIENCE_S):
                    await message.ack()
                    headers = message.headers or {}
                    more = {"_subject": message.subject, "_id": headers["Nats-Msg-Id"]}
                    found.append(json.loads(message.data) | more)
            return found

    async def holds(self, stream: str, how_many: int) -> list[dict[str, Any]]:
        """The same, once there are so many, and the server is there."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                with contextlib.suppress(OSError, nats.errors.Error):
                    async with self.jetstream() as jetstream:
                        try:
                            if (await jetstream.stream_info(stream)).state.messages >= how_many:
                                break
                        except NotFoundError:
                            pass
                await asyncio.sleep(0.05)
        return await self.published(stream)
