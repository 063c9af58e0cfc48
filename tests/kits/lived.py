"""Two simulated days of a park over the end of a month, for all tests that use their results."""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from agent.cli.main import outcome
from agent.indicators.declared import EnteredBy
from bench.timelapse import PLAN, Silence, Timelapse

FIRST, MIDDLE, LAST = date(2025, 1, 31), date(2025, 2, 1), date(2025, 2, 2)
HOUR = 3_600_000


def mh(*args: object) -> tuple[int, str, str]:
    """Run a command line. Returns (exit code, stdout, stderr)."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = outcome([str(arg) for arg in args])
    assert "Traceback" not in out.getvalue() + err.getvalue(), err.getvalue()
    return code, out.getvalue(), err.getvalue()


@dataclass(frozen=True)
class Lived:
    """The folder of a stopped gateway, and its exported packs. Tests must only read them."""

    folder: Path
    packs: Path
    kid: str
    entries: tuple[str, ...]  # ids of the declared values
    midnight_ms: int  # between the two days

    @property
    def config(self) -> Path:
        return self.folder / "agent.toml"

    def report(self, *args: object) -> str:
        code, out, err = mh("report", *args, "-c", self.config)
        assert code == 0, err
        return out


def live(folder: Path) -> Lived:
    """Simulate 31 January and 1 February 2025.

    The meter ``gate`` is silent over midnight. Certificates are declared on the 31st. From noon of the second day,
    another plan applies, with the fossil factor of another year.
    """
    park = Timelapse(folder, FIRST, every_s=600)
    midnight = park.calendar.midnight(MIDDLE)
    park.silences.append(Silence("gate", midnight - 3 * HOUR // 2, midnight + 5 * HOUR // 3))
    wrong = park.declare("certificates", "900", "MWh", FIRST, MIDDLE, "Li Wei", midnight - 9 * HOUR)
    right = park.declare(
        "certificates",
        "310",
        "MWh",
        FIRST,
        MIDDLE,
        "Li Wei",
        midnight - 8 * HOUR,
        "GEC-2025-0117",
        wrong,
        EnteredBy(1002, "anna"),
    )
    audit = park.declare("residual_available", "9000", "GJ", FIRST, LAST, "Zhang Min", midnight - 7 * HOUR)
    for now in park.until(LAST):
        if now == midnight + 12 * HOUR:
            park.plan(PLAN + '\n[pin]\n"power.fossil.cn" = 2023\n')
    park.close()
    code, _, err = mh("export", folder / "packs", "-c", folder / "agent.toml")
    assert code == 0, err
    return Lived(folder, folder / "packs", park.kid, (wrong, right, audit), midnight)
