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


def test_nothing_that_a_terminal_would_obey_reaches_the_log() -> None:
    """Whoever chose the text: escape sequences, bells, returns, marks that turn the writing round."""
    for journal in (True, False):
        text = JournalFormat(journal).format(record("%s", logging.WARNING, "a\x1b[2J\x07\r\x9b\u202e\u2028\x00b 中 ü"))
        assert text.isprintable() and text.endswith("b 中 ü")
        assert "\x1b" not in text and "a\N{REPLACEMENT CHARACTER}[2J" in text
