"""Makes signed packs from the records of one stream in the ring. The packs follow each other without hole or overlap.

The canonical JSON is written directly: ``ext.canon`` writes the readings, and this package writes the other members.
Keys and clock are arguments. No module here uses a file, a socket or the database.
"""

from agent.pack.facts import Facts, changes, contradicts
from agent.pack.packer import Clock, Head, Packer, Savepoint, SealedPack
from agent.pack.table import BirthPoints, BirthTable, seconds, seconds_json, ticks
from drivers.encoding import base64url

__all__ = [
    "BirthPoints",
    "BirthTable",
    "Clock",
    "Facts",
    "Head",
    "Packer",
    "Savepoint",
    "SealedPack",
    "base64url",
    "changes",
    "contradicts",
    "seconds",
    "seconds_json",
    "ticks",
]
