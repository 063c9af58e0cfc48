"""The verifier as a separate library.

It needs ``cryptography``, paho to read from a broker, and zstandard to read compressed packs.

    verifier = Verifier(trust=["<thumbprint>"])
    verifier.feed(payload, topic)          # for each object, in any order
    report = verifier.finish()             # or report() at any time

``read_paths`` reads exported files, and ``Live`` subscribes to a broker. ``check`` checks a single pack.
Outside of this repository the library is installed as ``meterhouse_verify``. The names below are imported when they
are first used, because the agent needs only parts of this package.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .agreed import AgreedStreams
    from .checkpoint import CheckedPage, NamedHead
    from .completeness import Balance, PackCounts, PackFault, balance
    from .files import read_paths, read_stream
    from .keyring import KeyRing
    from .live import Live, LiveError
    from .pack import Loss
    from .point_table import Gap, PointTable
    from .report import Day, Fault, Range, Report, StreamReport, Verdict
    from .seam import ChainLink, check_seam
    from .stateless import CheckedPack, Refusal, check, check_checkpoint, check_keys
    from .strict import Refused
    from .topics import Topic, split_topic
    from .verifier import Outcome, Verifier

_HOMES = {
    "agreed": ("AgreedStreams",),
    "checkpoint": ("CheckedPage", "NamedHead"),
    "completeness": ("Balance", "PackFault", "PackCounts", "balance"),
    "files": ("read_paths", "read_stream"),
    "keyring": ("KeyRing",),
    "live": ("Live", "LiveError"),
    "pack": ("Loss",),
    "point_table": ("Gap", "PointTable"),
    "report": ("Day", "Fault", "Range", "Report", "StreamReport", "Verdict"),
    "seam": ("ChainLink", "check_seam"),
    "stateless": ("CheckedPack", "Refusal", "check", "check_checkpoint", "check_keys"),
    "strict": ("Refused",),
    "topics": ("Topic", "split_topic"),
    "verifier": ("Outcome", "Verifier"),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "AgreedStreams",
    "Balance",
    "ChainLink",
    "CheckedPack",
    "CheckedPage",
    "Day",
    "Fault",
    "Gap",
    "KeyRing",
    "Live",
    "LiveError",
    "Loss",
    "NamedHead",
    "Outcome",
    "PackCounts",
    "PackFault",
    "PointTable",
    "Range",
    "Refusal",
    "Refused",
    "Report",
    "StreamReport",
    "Topic",
    "Verdict",
    "Verifier",
    "balance",
    "check",
    "check_checkpoint",
    "check_keys",
    "check_seam",
    "read_paths",
    "read_stream",
    "split_topic",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
