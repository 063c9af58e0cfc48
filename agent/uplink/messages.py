"""What an uplink is told, and what it says of itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


class Readable(Protocol):
    """Where a secret lies."""

    def read(self, environ: Mapping[str, str]) -> bytes:
        """The secret itself. Raises GatewayError naming the place, never the content."""


class Destination(Protocol):
    """One broker, as configured; ``agent.config.UplinkConfig`` is one."""

    @property
    def name(self) -> str: ...
    @property
    def url(self) -> str: ...  # for messages
    @property
    def host(self) -> str: ...
    @property
    def port(self) -> int: ...
    @property
    def tls(self) -> bool: ...
    @property
    def username(self) -> str: ...
    @property
    def password(self) -> Readable | None: ...
    @property
    def ca_file(self) -> Path | None: ...
    @property
    def cert_file(self) -> Path | None: ...
    @property
    def key_file(self) -> Path | None: ...
    @property
    def client_id(self) -> str: ...
    @property
    def confirm(self) -> str: ...  # platform, subscriber, broker, or "": the strictest the broker can do
    @property
    def keepalive_s(self) -> int: ...
    @property
    def backfill_rate(self) -> int: ...  # packs a second; 0: 200, or 25 times what comes fresh
    @property
    def in_flight(self) -> int: ...  # packs


@dataclass(frozen=True, slots=True)
class UplinkState:
    """One destination at a moment. Times are seconds since the epoch, for people; None: never."""

    connected: bool
    since: float | None  # connected or disconnected since
    waiting: int  # packs known to wait here, in flight included; the store counts all
    in_flight: int
    confirmed: int  # since the start, like the next three
    refused: int
    connects: int
    sent_bytes: int
    backfilling: bool  # older packs are on their way
    silent_topics: int  # topics that nobody reads or that we may not write
    set_aside: int  # packs that this broker will not take
    error: str | None  # the last trouble, until it is over
    hint: str | None
    mqtt: str | None  # "5" or "3.1.1"
    confirm: str | None  # what counts as delivered with this broker: platform, subscriber or broker
