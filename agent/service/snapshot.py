"""What the agent says of itself to local tools: one JSON file, replaced atomically."""

from __future__ import annotations

import os
import time
from typing import Any

import msgspec

from agent.config import Config
from agent.pack import seconds


class Snapshot:
    """Writes ``snapshot.json`` in the runtime directory; mode 0640, like the ring."""

    def __init__(self, config: Config, boot: str, ring_name: str) -> None:
        self._path = config.snapshot_path
        self._fixed = {
            "site": config.site,
            "gateway": config.gateway,
            "boot": boot,
            "pid": os.getpid(),
            "ring": ring_name,
        }
        self._encode = msgspec.json.Encoder().encode

    def write(self, status: dict[str, Any]) -> None:
        """Replace the file. The runtime directory is in memory: this does not wear a card."""
        content = {**self._fixed, "time": seconds(time.time_ns() // 1_000_000), **status}
        new = self._path.with_suffix(".new")
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o640), "wb") as stream:
            stream.write(self._encode(content))
        new.replace(self._path)

    def remove(self) -> None:
        """The agent is gone: a tool should say so instead of showing old values."""
        self._path.unlink(missing_ok=True)
