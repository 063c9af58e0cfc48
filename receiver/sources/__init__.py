"""Where messages come from. A source hands out messages and forgets one only after ``acknowledge``.

Another one (Kafka, NATS) is a class with the four methods of ``Source``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import urlsplit

from drivers.model import UsageError


@dataclass(slots=True)
class Message:
    """``token`` is the source's own name of this delivery."""

    topic: str  # as MQTT writes it
    body: bytes
    token: Any
    content_type: str = ""  # as the publisher says; "" for none


class Source(Protocol):
    """A connection that comes back by itself; what was not acknowledged is delivered again, to any worker."""

    def take(self, most: int, wait_s: float) -> list[Message]:
        """Up to ``most`` messages; waits for the first one, at most ``wait_s``."""

    def acknowledge(self, messages: Sequence[Message]) -> None:
        """These are committed, or will never be. Does nothing for deliveries of a connection that is gone."""

    def problem(self) -> str:
        """Why nothing arrives, in a sentence; empty while connected."""

    def close(self) -> None:
        """End the connection; what was not acknowledged stays with the broker."""


def open_source(url: str, name: str) -> Source:
    """The source behind ``mqtt://``, ``mqtts://``, ``amqp://`` or ``amqps://``.

    Args:
        name: of the worker; its session at the broker lives on under this name.

    Raises:
        UsageError: another scheme, or no host.
    """
    parts = urlsplit(url)
    if not parts.hostname:
        raise UsageError(f"no host in {url!r}", where="--from", hint="Expected such as mqtt://127.0.0.1:1883")
    if parts.scheme in ("mqtt", "mqtts"):
        from receiver.sources.mqtt import MqttSource

        return MqttSource(parts, name)
    if parts.scheme in ("amqp", "amqps"):
        from receiver.sources.amqp import AmqpSource

        return AmqpSource(url, parts)
    raise UsageError(f'unknown scheme "{parts.scheme}"', where="--from", hint="mqtt, mqtts, amqp and amqps are known")
