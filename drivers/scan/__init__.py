"""Finds and identifies the devices on a line. It sends only reads, and listens before the first read."""

from drivers.scan.notes import Note, note
from drivers.scan.plan import FoundDevice, ScanOptions
from drivers.scan.probes import COMMON_SETTINGS
from drivers.scan.search import Announce, Scan, one_device

__all__ = [
    "COMMON_SETTINGS",
    "Announce",
    "FoundDevice",
    "Note",
    "Scan",
    "ScanOptions",
    "note",
    "one_device",
]
