"""What a handover says of a comparison: an old reading proves nothing, and a ratio explains a difference."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from agent.cli.handover.command import _compared
from agent.cli.handover.labels import WORDS, verdict, why_different

READ: dict[str, Any] = {"device": "m1", "reading": {"v": "6123456.8", "u": "kWh"}, "state": "alive"}


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({**READ, "agrees": True}, "agrees"),
        ({**READ, "agrees": False}, "differs"),
        (READ, "not compared"),
        ({"device": "m1", "state": "dead"}, "no reading"),
        ({**READ, "agrees": True, "state": "dead"}, "silent"),
        ({**READ, "agrees": True, "state": "unknown"}, "silent"),
        ({**READ, "agrees": True, "state": "asleep"}, "agrees"),
    ],
)
def test_a_device_that_does_not_answer_agrees_with_nothing(entry: dict[str, Any], words: str) -> None:
    assert verdict(entry) == words and words in WORDS["en"] and words in WORDS["zh"]


@pytest.mark.parametrize(
    ("display", "ratio", "told"),
    [
        ("76543.21", {"ct": "80", "pt": "1"}, True),
        ("7654.321", {"ct": "80", "pt": "10"}, True),
        ("76500", {"ct": "80", "pt": "1"}, False),
        ("76543.21", {}, False),
    ],
)
def test_a_display_of_the_secondary_side_is_recognised(display: str, ratio: dict[str, str], told: bool) -> None:
    entry = {**READ, "display": display, "agrees": False, "ratio": ratio}
    assert bool(why_different(entry, WORDS["en"])) is told
    assert not why_different({**entry, "agrees": True}, WORDS["zh"])


@pytest.mark.parametrize(
    ("display", "factor"),
    [
        ("6123456800", "1000"),
        ("6123.457", "0.001"),
        ("612345.7", "0.1"),
        ("61234.6", "0.01"),
        ("6120000", ""),
        ("0", ""),
    ],
)
def test_a_display_in_another_unit_is_recognised(display: str, factor: str) -> None:
    for language in ("en", "zh"):
        text = why_different({**READ, "display": display, "agrees": False}, WORDS[language])
        assert bool(text) == bool(factor) and (not factor or (f" {factor} " in text and "kWh" in text))


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_a_device_without_any_counter_is_not_told_to_wait_for_one(
    lang: str, capsys: pytest.CaptureFixture[str]
) -> None:
    view = SimpleNamespace(follower=SimpleNamespace(latest={}))
    assert _compared(view, "x173", None, lang, False).device == "x173"  # type: ignore[arg-type]
    said = capsys.readouterr().err
    assert ("its profile has no counter" if lang == "en" else "设备模板没有计数器") in said and "yet" not in said
