"""The verifier as a library of its own: standard library, ``cryptography``; paho, zstandard and msgspec where used.

    verifier = Verifier(trust=["<thumbprint>"])
    verifier.feed(payload, topic)          # as often as something comes, in any order
    report = verifier.finish()             # or report() while it goes on

``files.read_paths`` feeds exported files, ``live.Live`` a broker's messages.
"""

from agent.verify.report import Day, Fault, Range, Report, StreamReport, Verdict
from agent.verify.strict import Refused
from agent.verify.verifier import Outcome, Verifier

__all__ = ["Day", "Fault", "Outcome", "Range", "Refused", "Report", "StreamReport", "Verdict", "Verifier"]
