"""Wrong usage of `meterhouse handover`: what is said, before anything is signed."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--display", "inv1"], "--display: 'inv1' is not DEVICE=VALUE"),
        (["--display", "inv1=ten"], "--display inv1: 'ten' is not a number"),
        (["--display", "inv9=1"], 'the running agent has no device "inv9"'),
        (["--display", "inv1/ac.energy.imp=1"], "inv1 has no point 'ac.energy.imp'"),
        (["--who", " "], "--who: is missing"),
        (["--remarks", "a\nb"], "--remarks: not a text of at most 2000 characters on one line"),
        (["--csv", "CSV"], "shown.csv:2: 1 columns. DEVICE,VALUE or DEVICE,VALUE,REMARK"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_is_signed(
    tmp_path: Path, mh, park, traces, more: list[str], says: str
) -> None:
    (tmp_path / "shown.csv").write_text("inv1,1\ninv2\n")
    more = [str(tmp_path / "shown.csv") if text == "CSV" else text for text in more]
    said = mh("handover", "--who", "x", *more, "--yes", "-c", park())
    assert (said.code, said.out) == (2, "") and says in said.err, said.err


def test_nobody_to_ask_is_said(mh, park, traces) -> None:
    said = mh("handover", "--who", "x", "-c", park())
    assert said.code == 2 and "confirmation needed, but stdin is not a terminal. Use --yes" in said.err
