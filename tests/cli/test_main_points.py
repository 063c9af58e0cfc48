"""What a device says of itself, in the words of whoever reads it."""

from __future__ import annotations

from agent.cli.main_points import identity_words, known_as

SAID = {"device.vendor": "Acme", "device.serial": "17", "status": "0", "maker": "UMH", "x.odd": "1\x1b[2J"}


def test_names_are_those_of_the_language() -> None:
    assert identity_words(SAID, "en") == "vendor Acme, serial 17, status 0, maker UMH, x.odd 1\ufffd[2J"
    assert identity_words(SAID, "zh") == "厂家 Acme，序列号 17，状态字 0，厂家 UMH，x.odd 1\ufffd[2J"
    assert known_as(SAID, "zh") == "厂家 Acme，厂家 UMH，序列号 17", "in the order of a nameplate, and nothing else"
    assert identity_words({}, "zh") == ""
