"""MQTT topics of signed objects: ``meterhouse/v1/<site>/<gateway>/...``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

PREFIX: Final = "meterhouse/v1/"
NAME: Final = r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,63}"  # site, gateway, last part of a stream's name
STREAM: Final = re.compile(f"{NAME}/{NAME}/{NAME}")
GATEWAY: Final = re.compile(f"{NAME}/{NAME}")
PACK_KINDS: Final = ("readings", "backfill", "birth")
CONTENT_TYPES: Final = ("", "application/json", "application/json+zstd")  # in MQTT 5; the last is for a zstd frame


@dataclass(frozen=True, slots=True)
class Topic:
    """The topic on which an object was published. Its names are as received, and nothing has checked them."""

    text: str
    gateway: str  # <site>/<gateway>
    kind: str  # "keys", "checkpoint", "readings", "backfill", or "birth": the retained copy of a birth
    stream: str = ""  # <site>/<gateway>/<name>, of packs
    page: str = ""  # number of a checkpoint's page


def is_known_type(kind: str) -> bool:
    """True if a content type is in ``CONTENT_TYPES``. Its parameters are ignored."""
    return kind.partition(";")[0].strip().lower() in CONTENT_TYPES


def split_topic(topic: str) -> Topic | None:
    """Split a topic. Returns None for a topic without signed objects (``status``, ``ack``, ``replay`` and others)."""
    if not topic.startswith(PREFIX):
        return None
    parts = topic.removeprefix(PREFIX).split("/")
    gateway = "/".join(parts[:2])
    if len(parts) == 3 and parts[2] == "keys":
        return Topic(topic, gateway, "keys")
    if len(parts) != 4:
        return None
    if parts[2] == "checkpoint":
        return Topic(topic, gateway, "checkpoint", page=parts[3])
    return Topic(topic, gateway, parts[3], "/".join(parts[:3])) if parts[3] in PACK_KINDS else None
