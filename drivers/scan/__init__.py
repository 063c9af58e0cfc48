"""Finds and identifies the devices on a line. Only reads are sent, and only after listening."""

from drivers.scan.ear import AnotherMaster, Ear, describe
from drivers.scan.fit import Fit, Identity, identify, profiles_of
from drivers.scan.hunt import Found, Hunt
from drivers.scan.probes import COMMON_SETTINGS, FACTS, PROTOCOLS, SETTINGS
from drivers.scan.remembering_line import RememberingLine
from drivers.scan.search import Scan, one_device

__all__ = [
    "COMMON_SETTINGS",
    "FACTS",
    "PROTOCOLS",
    "SETTINGS",
    "AnotherMaster",
    "Ear",
    "Fit",
    "Found",
    "Hunt",
    "Identity",
    "RememberingLine",
    "Scan",
    "describe",
    "identify",
    "one_device",
    "profiles_of",
]
