"""The log of the running agent: one line for each message, at a limited rate."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable
from typing import Final

from drivers.model import clean_text
from drivers.rate_limit import TokenBucket

JOURNAL_LEVELS: Final = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}
ONE_BURST, ONE_EVERY_S = 10, 600.0  # limit for lines of one kind: ten at once, then one every ten minutes
# limit for all lines together: 1,000 at once, then one every two seconds (43,200 a day)
ALL_BURST, ALL_EVERY_S = 1000, 2.0
MOST_KINDS: Final = 4096


class JournalFormat(logging.Formatter):
    """Formats a message as one line of printable characters. Under systemd, adds the priority for journalctl."""

    def __init__(self, journal: bool) -> None:
        super().__init__("%(name)s: %(message)s" if journal else "%(asctime)s %(levelname)-7s %(name)s: %(message)s")
        self._journal = journal

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record).replace("\n", " | ")
        if not text.isprintable():
            text = clean_text(text, len(text))
        return f"<{JOURNAL_LEVELS.get(record.levelno, 6)}>{text}" if self._journal else text


class _CountingBucket(TokenBucket):
    """A token bucket that counts its refusals."""

    __slots__ = ("refused",)

    def __init__(self, burst: int, every_s: float, now: float) -> None:
        super().__init__(1 / every_s, burst, now)
        self.refused = 0

    def take(self, now_s: float) -> bool:
        taken = super().take(now_s)
        self.refused += not taken
        return taken


class LogCap(logging.Filter):
    """Limits the volume of the log.

    Suppressed lines are counted, and the next line of the same kind reports their number.

    Two lines are of one kind if they have the same message template and the same first value, such as a device's name.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._monotonic = monotonic
        self._kinds: dict[tuple[str, str, str], _CountingBucket] = {}
        self._all = _CountingBucket(ALL_BURST, ALL_EVERY_S, monotonic())

    def filter(self, record: logging.LogRecord) -> bool:
        now = self._monotonic()
        about = str(record.args[0])[:80] if isinstance(record.args, tuple) and record.args else ""
        kind = (record.name, str(record.msg)[:200], about)
        bucket = self._kinds.pop(kind, None) or _CountingBucket(ONE_BURST, ONE_EVERY_S, now)
        # move this kind to the end; the kind at the front was used least recently, and is forgotten first
        self._kinds[kind] = bucket
        if len(self._kinds) > MOST_KINDS:
            del self._kinds[next(iter(self._kinds))]
        if not (bucket.take(now) and self._all.take(now)):
            return False
        refused, bucket.refused = bucket.refused, 0
        more = f" ({refused} more of these since)" if refused else ""
        if self._all.refused:
            more += f" ({self._all.refused} other lines were left out)"
            self._all.refused = 0
        if more:
            record.msg, record.args = record.getMessage() + more, ()
        return True


def set_up_logging(verbose: bool) -> None:
    """Send all logs to standard error; libraries log only warnings and errors."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JournalFormat("JOURNAL_STREAM" in os.environ))
    if not verbose:
        handler.addFilter(LogCap())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("meterhouse").setLevel(logging.DEBUG if verbose else logging.INFO)
