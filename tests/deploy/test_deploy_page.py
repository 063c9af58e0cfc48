"""docs/deploy.md: what it tells people to copy is of the right form, and what it cites is there."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from agent.service.status import families

ROOT = Path(__file__).resolve().parent.parent.parent
PAGE = (ROOT / "docs" / "deploy.md").read_text()
FACTS: dict[str, Any] = {
    "site": "park7", "gateway": "gw01", "version": "0.1", "boot": "b", "started": 1,
    "config": {"loaded": 1, "complaints": []}, "store": {"trouble": None},
    "clock": {"synced": True, "error_ms": 1}, "devices": {}, "lines": {}, "uplinks": {},
}  # fmt: skip


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.S)


def test_the_alerts_ask_for_metrics_that_there_are(tmp_path: Path) -> None:
    (rules,) = blocks("yaml")
    known = {f"meterhouse_{family.name}" for family in families(FACTS)}
    asked = set(re.findall(r"\bmeterhouse_\w+", rules))
    assert len(asked) >= 8 and asked <= known, asked - known
    if promtool := shutil.which("promtool"):
        path = tmp_path / "alerts.yml"
        path.write_text(rules)
        said = subprocess.run(
            [promtool, "check", "rules", path], check=False, capture_output=True, text=True, timeout=200
        )
        assert said.returncode == 0, said.stdout + said.stderr


@pytest.mark.parametrize("script", blocks("sh"), ids=lambda text: text.strip().splitlines()[0][:40])
def test_the_shell_understands_the_commands(script: str) -> None:
    said = subprocess.run(["sh", "-n"], input=script, check=False, capture_output=True, text=True, timeout=200)
    assert said.returncode == 0, said.stderr


def test_what_it_points_to_is_there() -> None:
    links = re.findall(r"\]\(((?!http)[^)#]+)\)", PAGE)
    assert len(links) > 10
    missing = [link for link in links if not (ROOT / "docs" / link).exists()]
    cited = set(re.findall(r"\btests/[\w/]+\.py", PAGE))
    assert not missing and not [path for path in cited if not (ROOT / path).exists()]


def test_pains_65_to_73_are_answered_and_cited() -> None:
    """Each has a line, and a test that names its number."""
    answered = set(re.findall(r"^\| (\d+) \|", PAGE.partition("## Faults reported of other gateways")[2], re.M))
    assert answered == {str(n) for n in range(65, 74)}
    cited: set[str] = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        for numbers in re.findall(r"field pains?[ ,]((?:\d+(?:, |,? and )?)+)", path.read_text()):
            cited |= set(re.findall(r"\d+", numbers))
    assert answered <= cited, answered - cited
