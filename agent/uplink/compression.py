"""Packs as zstd frames, for a destination that asks for them. The frame's content is the pack, byte for byte."""

from __future__ import annotations

from typing import Final

import zstandard

from agent.outbox import OutboxItem
from agent.verify.topics import CONTENT_TYPES

CONTENT_TYPE: Final = CONTENT_TYPES[-1]  # RFC 8878 registers the suffix
LEVEL: Final = 3  # level 9 takes eight times as long and saves a tenth at most (python -m bench.compress)


class PackCompressor:
    """Compresses in the uplink's thread, each pack when it is sent. Keeps the last one, whose size was looked at first.

    ``enabled`` is False where the connection cannot state a content type (MQTT 3.1.1): packs then go as they are.
    """

    def __init__(self, wanted: bool) -> None:
        self._frames = zstandard.ZstdCompressor(level=LEVEL, write_content_size=True) if wanted else None
        self._last: tuple[bytes, bytes, str] = (b"", b"", "")  # pack, payload, content type
        self.wanted, self.enabled = wanted, False

    def payload(self, item: OutboxItem) -> tuple[bytes, str]:
        """What is published, and its content type; "" for the pack itself, also where a frame would be no shorter."""
        if self._frames is None or not self.enabled:
            return item.data, ""
        if self._last[0] is not item.data:
            frame = self._frames.compress(item.data)
            made = (frame, CONTENT_TYPE) if len(frame) < len(item.data) else (item.data, "")
            self._last = (item.data, *made)
        return self._last[1:]

    def size(self, item: OutboxItem) -> int:
        """Bytes of the payload."""
        return len(self.payload(item)[0])
