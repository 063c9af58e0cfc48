"""The messages that an uplink publishes, and the state that it reports. Packs may be published as zstd frames."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Final

import zstandard

from agent.outbox import OutboxItem
from agent.settings import UplinkConfig
from agent.verify.topics import CONTENT_TYPES

LIVE: Final = "readings"
BACKFILL: Final = "backfill"
BIRTH: Final = "birth"
CONTROL: Final = "control"  # for status, keys, checkpoints and replies
REPLAY: Final = "replay"  # for a pack that the platform requested again; its topic ends in BACKFILL
NO_LIMIT: Final = 1 << 62  # the largest packet in bytes, if the broker states no limit
CONTENT_TYPE: Final = CONTENT_TYPES[-1]  # the content type of a compressed pack; RFC 8878 registers the suffix +zstd
LEVEL: Final = 3  # level 9 takes eight times as long and saves at most a tenth (python -m bench.compress)


def client_id(config: UplinkConfig, site: str, gateway: str) -> str:
    """Return the MQTT client id for a destination: the configured id, or one made of site, gateway and name."""
    return config.client_id or f"meterhouse-{site}-{gateway}-{config.name}"


def status_bytes(gateway: str, state: str, version: str, **more: object) -> bytes:
    """Return the message for the topic ``status``.

    ``gateway``: its full name, such as park7/gw01. ``state``: online or offline.
    """
    facts = {"gateway": gateway, "state": state, "v": 1, "version": version, **more}
    return json.dumps(facts, sort_keys=True, separators=(",", ":")).encode()


@dataclass(slots=True)
class OutgoingMessage:
    """A message to publish at QoS 1. ``id``: the outbox id, for a pack that must be confirmed; 0 for other messages."""

    topic: str
    data: bytes
    kind: str = CONTROL  # LIVE, BACKFILL, BIRTH, REPLAY or CONTROL; the first three are also the last part of the topic
    retain: bool = True
    id: int = 0
    ref: int = 0  # the id of a pack, or minus the id of a retained birth; 0 for other messages
    stream: str = ""
    probe: bool = False  # True: the message tests whether the broker accepts a blocked topic again
    sent_s: float = 0.0
    content_type: str = ""  # "": the message states no content type
    end_offset: int = 0  # when the broker has received this number of bytes on the connection, it has the whole message


@dataclass(frozen=True, slots=True)
class UplinkState:
    """The state of one destination. Times are in seconds since the epoch."""

    connected: bool
    since: float | None  # when the destination was connected, or when it was disconnected
    waiting: int  # number of unconfirmed packs that the uplink knows, with those in flight; the store may have more
    in_flight: int
    # the next four numbers count from the start of the agent
    confirmed: int  # number of packs that the broker accepted (the status page calls them confirmed)
    refused: int
    connects: int
    sent_bytes: int
    backfilling: bool  # True: backlog is being sent
    silent_topics: int  # number of topics without a subscriber or without write permission
    set_aside: int  # number of packs that this broker does not accept
    error: str | None  # text of the last fault; None when it is cleared
    hint: str | None
    mqtt: str | None  # "5" or "3.1.1"
    confirm: str | None  # where a pack must arrive to count as delivered: platform, subscriber or broker
    # True: all our packs have a subscriber. None: it is not known, which is always so with MQTT 3.1.1.
    subscriber: bool | None
    streams: list[str]  # names and patterns of the streams that this destination gets; empty: it gets all streams
    compress: str | None  # "zstd" if packs are compressed on this connection; otherwise None
    broker_certificate_ends: float | None  # when the broker's certificate expires; None: not known


class PackCompressor:
    """Compresses packs in the uplink's thread.

    It keeps the last result, which is used to check the size and then to send.

    ``enabled`` is False if the connection cannot state a content type (MQTT 3.1.1). Packs are then sent uncompressed.
    """

    def __init__(self, wanted: bool) -> None:
        self._frames = zstandard.ZstdCompressor(level=LEVEL, write_content_size=True) if wanted else None
        self._last: tuple[bytes, bytes, str] = (b"", b"", "")  # the last (pack, payload, content type)
        self.wanted, self.enabled = wanted, False

    def payload(self, item: OutboxItem) -> tuple[bytes, str]:
        """Return the payload and its content type: the compressed pack, or the pack itself with the content type "".

        The pack itself is used if compression is off or does not make it shorter.
        """
        if self._frames is None or not self.enabled:
            return item.data, ""
        if self._last[0] is not item.data:
            frame = self._frames.compress(item.data)
            made = (frame, CONTENT_TYPE) if len(frame) < len(item.data) else (item.data, "")
            self._last = (item.data, *made)
        return self._last[1:]

    def size(self, item: OutboxItem) -> int:
        """Return the size of the payload in bytes."""
        return len(self.payload(item)[0])
