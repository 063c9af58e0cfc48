"""Sealing: turns one stream's records in the ring into signed packs, without a hole and without an overlap.

The canonical bytes are written directly: readings by ``ext.canon``, the few header fields here. Keys and clock are
arguments; nothing here touches a file, a socket or the database.
"""

from agent.pack.facts import Facts, changes, contradicts
from agent.pack.packer import Head, Packer, Savepoint, SealedPack
from agent.pack.table import BirthPoints, BirthTable, seconds, ticks
from drivers.encoding import base64url

__all__ = [
    "BirthPoints",
    "BirthTable",
    "Facts",
    "Head",
    "Packer",
    "Savepoint",
    "SealedPack",
    "base64url",
    "changes",
    "contradicts",
    "seconds",
    "ticks",
]
