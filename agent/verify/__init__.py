"""The verifier as a separate library: needs the standard library and ``cryptography``; paho and zstandard if used.

    verifier = Verifier(trust=["<thumbprint>"])
    verifier.feed(payload, topic)          # for each object, in any order
    report = verifier.finish()             # or report() at any time

``files.read_paths`` reads exported files, ``live.Live`` subscribes to a broker.
"""

from agent.verify.report import Day, Fault, Range, Report, StreamReport, Verdict
from agent.verify.strict import Refused
from agent.verify.verifier import Outcome, Verifier

__all__ = ["Day", "Fault", "Outcome", "Range", "Refused", "Report", "StreamReport", "Verdict", "Verifier"]
