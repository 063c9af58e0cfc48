"""The log of the running agent: one line for each message, at a limited rate."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable
from typing import Final

from drivers.model import clean_text

JOURNAL_LEVELS: Final = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}
ONE_BURST, ONE_EVERY_S = 10, 600.0  # lines of one kind about one thing
ALL_BURST, ALL_EVERY_S = 1000, 2.0  # lines at all: 1,000 at once, then 43,200 a day
MOST_KINDS: Final = 4096


class JournalFormat(logging.Formatter):
    """One line a message, of what can be printed; under systemd with the priority that journalctl filters by."""

    def __init__(self, journal: bool) -> None:
        super().__init__("%(name)s: %(message)s" if journal else "%(asctime)s %(levelname)-7s %(name)s: %(message)s")
        self._journal = journal

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record).replace("\n", " | ")
        if not text.isprintable():
            text = clean_text(text, len(text))
        return f"<{JOURNAL_LEVELS.get(record.levelno, 6)}>{text}" if self._journal else text


class _Bucket:
    def __init__(self, burst: int, now: float) -> None:
        self.left, self.at_s, self.unsaid = float(burst), now, 0

    def take(self, burst: int, every_s: float, now: float) -> bool:
        self.left = min(float(burst), self.left + (now - self.at_s) / every_s)
        self.at_s = now
        if self.left < 1:
            self.unsaid += 1
            return False
        self.left -= 1
        return True


class LogCap(logging.Filter):
    """Bounds the volume: what repeats without end is counted, and the next line of its kind says how often.

    A kind is a message without its values, about one thing: its first value, as a line's or a device's name is.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._monotonic = monotonic
        self._kinds: dict[tuple[str, str, str], _Bucket] = {}
        self._all = _Bucket(ALL_BURST, monotonic())

    def filter(self, record: logging.LogRecord) -> bool:
        now = self._monotonic()
        about = str(record.args[0])[:80] if isinstance(record.args, tuple) and record.args else ""
        kind = (record.name, str(record.msg)[:200], about)
        bucket = self._kinds.pop(kind, None) or _Bucket(ONE_BURST, now)
        self._kinds[kind] = bucket  # at the end: the least recently used are forgotten first
        if len(self._kinds) > MOST_KINDS:
            del self._kinds[next(iter(self._kinds))]
        if not (bucket.take(ONE_BURST, ONE_EVERY_S, now) and self._all.take(ALL_BURST, ALL_EVERY_S, now)):
            return False
        unsaid, bucket.unsaid = bucket.unsaid, 0
        more = f" ({unsaid} more of these since)" if unsaid else ""
        if self._all.unsaid:
            more += f" ({self._all.unsaid} other lines were left out)"
            self._all.unsaid = 0
        if more:
            record.msg, record.args = record.getMessage() + more, ()
        return True


def set_up_logging(verbose: bool) -> None:
    """All logs go to standard error; libraries speak only when something is wrong."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JournalFormat("JOURNAL_STREAM" in os.environ))
    if not verbose:
        handler.addFilter(LogCap())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("meterhouse").setLevel(logging.DEBUG if verbose else logging.INFO)
