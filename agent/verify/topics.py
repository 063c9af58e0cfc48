"""The MQTT topics of signed objects, which are ``meterhouse/v1/<site>/<gateway>/...``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

PREFIX: Final = "meterhouse/v1/"
NAME: Final = r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,63}"  # pattern of a site, a gateway, or the last part of a stream's name
STREAM: Final = re.compile(f"{NAME}/{NAME}/{NAME}")
GATEWAY: Final = re.compile(f"{NAME}/{NAME}")
PACK_KINDS: Final = ("readings", "backfill", "birth")
# content types in MQTT 5; "" means none, and the last means a zstd frame
CONTENT_TYPES: Final = ("", "application/json", "application/json+zstd")


@dataclass(frozen=True, slots=True)
class Topic:
    """The topic on which an object was published. The names in it are as received; nothing has proved them."""

    text: str
    gateway: str  # <site>/<gateway>
    kind: str  # "keys", "checkpoint", "readings", "backfill", or "birth": the retained copy of a birth
    stream: str = ""  # <site>/<gateway>/<name>, only for packs
    page: str = ""  # number of the page, only for checkpoints


def is_known_type(kind: str) -> bool:
    """True if a content type is in ``CONTENT_TYPES``. Its parameters are ignored."""
    return kind.partition(";")[0].strip().lower() in CONTENT_TYPES


def split_topic(topic: str) -> Topic | None:
    """Split a topic. Returns None if the topic has no signed objects (``status``, ``ack``, ``replay`` and others)."""
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
