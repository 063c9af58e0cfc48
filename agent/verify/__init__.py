"""The verifier as a separate library: needs the standard library and ``cryptography``; paho and zstandard if used.

    verifier = Verifier(trust=["<thumbprint>"])
    verifier.feed(payload, topic)          # for each object, in any order
    report = verifier.finish()             # or report() at any time

``files.read_paths`` reads exported files, ``live.Live`` subscribes to a broker. The names below are imported when they
are first used: the agent needs only parts of this package.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agent.verify.report import Day, Fault, Range, Report, StreamReport, Verdict
    from agent.verify.strict import Refused
    from agent.verify.verifier import Outcome, Verifier

__all__ = ["Day", "Fault", "Outcome", "Range", "Refused", "Report", "StreamReport", "Verdict", "Verifier"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = {"Outcome": "verifier", "Refused": "strict", "Verifier": "verifier"}.get(name, "report")
    return getattr(import_module(f"{__name__}.{module}"), name)
