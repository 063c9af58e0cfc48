"""Wrong usage of `meterhouse handover`: what is said, before anything is signed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from agent.cli.handover import command
from agent.cli.handover.awaited import wait_for_counters
from agent.cli.handover.labels import WORDS, display_text
from agent.cli.watch.live_view import LiveView
from agent.config import load_config
from drivers.model import Reason


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--display", "inv1"], "--display: 'inv1' does not have the form DEVICE=VALUE"),
        (["--display", "inv1=ten"], "--display inv1: 'ten' is not a number"),
        (
            ["--display", "inv1=1,234"],
            "--display inv1: 1,234 is ambiguous: 1.234 or 1234? Type 1.234 or 1234, without a comma",
        ),
        (["--display", "inv1=12345,678"], "12345,678 is ambiguous: 12345.678 or 12345678?"),
        (["--display", "inv1=1 234,567"], "1234,567 is ambiguous"),
        (["--display", "inv1=1234,567,890"], "'1234,567,890' is not a number. Write digits and a decimal point"),
        (["--display", "inv1=1.234,5"], "is not a number"),
        (
            ["--display", "inv1=12 m3"],
            "--display inv1: the unit m3 of the display does not fit this counter. Give the value in the unit kWh",
        ),
        (["--display", "inv1=12 kvarh"], "the unit kvarh of the display does not fit this counter"),
        (["--csv", "COMMA"], "comma.csv:1: 1,234 is ambiguous"),
        (["--display", "inv1=1", "--display", "inv1=2"], "--display: 'inv1' is given twice"),
        (["--display", "inv1=1", "--csv", "ONE"], "one.csv:1: 'inv1' is given twice"),
        (["--csv", "TWICE"], "twice.csv:2: 'inv1' is given twice"),
        (["--csv", "LOCKED"], "locked.csv:2: 'inv1' is given twice"),  # an empty value is not the name of a column
        (["--display", "inv9=1"], 'error: --display: the running agent has no device "inv9"'),
        (["--display", "inv1/ac.energy.imp=1"], "inv1 has no point 'ac.energy.imp'"),
        (["inv2", "--display", "inv1=1"], "--display: 'inv1' is not one of the selected devices. Name this device"),
        (["--who", " "], "--who: is missing"),
        (["--remarks", "a\nb"], "--remarks: must be one line of at most 2000 characters"),
        (["--csv", "GBK"], "gbk.csv:2: 'ten' is not a number"),
        (["--csv", "BROKEN"], "broken.csv:2: the file is not text in UTF-8, UTF-16 or GBK. Save the file as CSV UTF-8"),
        (["--csv", "WORKBOOK"], "this is a workbook, not a CSV file"),
        (
            ["--csv", "CSV"],
            "shown.csv:2: this line of the file has 1 column. Expected DEVICE,VALUE or DEVICE,VALUE,REMARK",
        ),
    ],
)
def test_what_is_wrong_is_said_and_nothing_is_signed(
    tmp_path: Path, mh, park, traces, more: list[str], says: str
) -> None:
    (tmp_path / "shown.csv").write_text("inv1,1\ninv2\n")
    (tmp_path / "comma.csv").write_text('inv1,"1,234"\n')
    (tmp_path / "twice.csv").write_text("inv1,1\ninv1,2\n")
    (tmp_path / "gbk.csv").write_bytes("inv1,1,柜门内\ninv2,ten\n".encode("gbk"))
    (tmp_path / "broken.csv").write_bytes(b"inv1,1\ninv2,2,\xff\n")
    (tmp_path / "displays.xlsx").write_bytes(b"PK\x03\x04")
    files = {
        "GBK": "gbk.csv",
        "BROKEN": "broken.csv",
        "WORKBOOK": "displays.xlsx",
        "CSV": "shown.csv",
        "COMMA": "comma.csv",
        "TWICE": "twice.csv",
        "LOCKED": "locked.csv",
        "ONE": "one.csv",
    }
    (tmp_path / "one.csv").write_text("inv1,1\n")
    (tmp_path / "locked.csv").write_text("inv1,,cabinet locked\ninv1,5\n")
    more = [str(tmp_path / files[text]) if text in files else text for text in more]
    said = mh("handover", "--who", "x", *more, "--yes", "-c", park())
    assert (said.code, said.out) == (2, "") and says in said.err, said.err


def test_nothing_is_signed_for_a_page_that_cannot_be_written(
    tmp_path: Path, mh, park, traces, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record was signed and not shown, and the repeated command signed another one."""
    asked: list[object] = []
    monkeypatch.setattr("agent.cli.control.ask_running", lambda *request, **more: asked.append(request))
    monkeypatch.setattr(command, "wait_for_counters", lambda *given: None)
    said = mh("handover", "--who", "x", "--html", tmp_path / "none" / "h.html", "--yes", "-c", park())
    assert said.code == 2 and "h.html: cannot write the file (No such file or directory)" in said.err
    assert not asked


@pytest.mark.parametrize("text", ["１２３４．７", "1,234,567.8", "1,234.5", "1 234 567.8", "1234.567", "-1,234,567"])
def test_thousands_that_can_only_be_thousands_are_left_out(mh, park, traces, text: str) -> None:
    """The next thing that is wrong is the device, so the value was taken."""
    said = mh("handover", "--who", "x", "--display", f"inv9={text}", "--yes", "-c", park())
    assert 'has no device "inv9"' in said.err


def test_nobody_to_ask_is_said(mh, park, traces) -> None:
    said = mh("handover", "--who", "x", "-c", park())
    assert said.code == 2 and "confirmation needed, but stdin is not a terminal. Use --yes" in said.err


COUNTER = 1  # of the tables of ``traces``


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("before", ["nothing", "a broken answer"])
@pytest.mark.parametrize("then", ["value", "gap", "silent"])
def test_a_counter_that_was_not_read_yet_is_waited_for(
    park, traces, capsys, language: str, before: str, then: str
) -> None:
    """A slow counter is due each minute: a record made before would lack it. Only its next word is waited for."""
    traces.values(3, (COUNTER, 700, 0, 0))  # of inv2, which need not be waited for
    if before == "a broken answer":
        traces.gap(2, Reason.CRC)

    class Turning(LiveView):
        looks = 0

        def catch_up(self) -> None:
            self.looks += 1
            if self.looks == 3 and then == "value":
                traces.values(2, (COUNTER, 12345, -1, 0))
            elif self.looks == 3 and then == "gap":
                traces.gap(2, Reason.CRC)
            elif self.looks == 3:
                self.snapshot["devices"]["inv1"]["life"] = "dead"
            super().catch_up()

    view = Turning(traces.folder, [], (), snapshot_every_s=600)
    try:
        view.catch_up()
        wait_for_counters(view, load_config(park()), {"inv1": "", "inv2": ""}, WORDS[language])
        assert view.looks == 3
        assert (str(view.follower.latest[("inv1", "ac.energy.import")].value) == "1234.5") == (then == "value")
    finally:
        view.close()
    said = capsys.readouterr().err
    told = "not read yet, next reading in" if language == "en" else "尚未读到"
    assert told in said and "inv1" in said and "inv2" not in said
    assert 1 <= int(re.search(r"(\d+) (?:s|秒)", said)[1]) <= 60, "of its pace"


@pytest.mark.parametrize("why", ["silent", "refused"])
def test_nothing_is_waited_for_that_will_not_come(park, traces, capsys, why: str) -> None:
    traces.gap(2, Reason.EXCEPTION if why == "refused" else Reason.TIMEOUT)
    traces.facts["devices"]["inv1"]["life"] = "dead" if why == "silent" else "alive"
    traces.write()
    view = LiveView(traces.folder, [], ())
    try:
        view.catch_up()
        wait_for_counters(view, load_config(park()), {"inv1": ""}, WORDS["en"])
    finally:
        view.close()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_value_that_is_missing_since_is_no_reading_of_now(park, traces, capsys, language: str) -> None:
    """It agreed with the display, was signed, and the meter had shown nothing for nine minutes."""
    view = LiveView(traces.folder, [], ())
    try:
        display = command.Shown("1234.5", "", "")
        traces.values(2, (COUNTER, 12345, -1, 0), ago_s=540)
        for ago_s in (20, 10, 0):
            traces.values(2, (COUNTER, 0, 0, Reason.SENTINEL), ago_s=ago_s)
        view.catch_up()
        missing = command._compared(view, "inv1", display, language, False)
        assert (missing.n, missing.display) == ("", "")
        traces.values(2, (COUNTER, 12345, -1, 0), ago_s=2)
        traces.values(2, (COUNTER, 0, 0, Reason.SENTINEL))
        view.catch_up()
        just_now = command._compared(view, "inv1", display, language, False)
        assert (just_now.n, just_now.display) == ("ac.energy.import", "1234.5"), "missing for a moment"
    finally:
        view.close()
    told = capsys.readouterr().err
    assert ("9 min old" if language == "en" else "9分钟前") in told and "ac.energy.import" in told


@pytest.mark.parametrize(
    ("typed", "display", "resolution"),
    [
        ("12.34 MWh", "12340", "10"),
        ("12MWh", "12000", "1000"),
        ("12.3456 MWh", "12345.6", ""),
        ("12345678 Wh", "12345.678", ""),
        ("12340", "12340", ""),
    ],
)
def test_a_display_in_another_unit_keeps_its_own_digits(
    park, traces, typed: str, display: str, resolution: str
) -> None:
    """12.34 MWh beside 12345.6 kWh was signed as different: it was compared as if the display showed 12340 kWh."""
    traces.values(2, (COUNTER, 123456, -1, 0))
    view = LiveView(traces.folder, [], ())
    try:
        view.catch_up()
        device, shown = command._given(f"inv1={typed}", "--display")
        sent = command._compared(view, device, command._converted(view, device, shown), "en", False)
    finally:
        view.close()
    assert (sent.display, sent.resolution) == (display, resolution)
    entry = {"display": sent.display, **({"resolution": sent.resolution} if sent.resolution else {})}
    assert display_text(entry) == (f"{display} ±{resolution}" if resolution else display)
