"""What the journal gets: priorities, and one line a message."""

from __future__ import annotations

import logging

from agent.cli.logs import JournalFormat


def record(text: str, level: int = logging.WARNING, *args: object) -> logging.LogRecord:
    return logging.LogRecord("meterhouse.line", level, "", 0, text, args, None)


def test_priorities_and_one_line() -> None:
    """`journalctl -p warning` filters by the number in front."""
    journal = JournalFormat(journal=True)
    assert journal.format(record("a\nb")) == "<4>meterhouse.line: a | b"
    assert journal.format(record("x", logging.ERROR)).startswith("<3>")
    assert journal.format(record("x", logging.INFO)).startswith("<6>")
    assert "WARNING" in JournalFormat(journal=False).format(record("x"))
