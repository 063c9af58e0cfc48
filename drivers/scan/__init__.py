"""Finds and identifies the devices on a line. Only reads are sent, and only after listening."""

from drivers.scan.plan import FoundDevice, ScanOptions
from drivers.scan.probes import COMMON_SETTINGS, PROTOCOLS, SETTINGS
from drivers.scan.search import Scan, one_device

__all__ = [
    "COMMON_SETTINGS",
    "PROTOCOLS",
    "SETTINGS",
    "FoundDevice",
    "Scan",
    "ScanOptions",
    "one_device",
]
