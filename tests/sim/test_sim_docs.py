"""The example of docs/simulator.md runs as it stands, and docs/meters.md names what there is."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.process
def test_the_example_in_python_runs(tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (DOCS / "simulator.md").read_text(), re.DOTALL)
    assert 'Path("/tmp")' in code
    code = code.replace('Path("/tmp")', f"Path({str(tmp_path)!r})")
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=DOCS.parent, timeout=200)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_the_simulated_meters_of_the_docs_exist() -> None:
    text = (DOCS / "meters.md").read_text()
    modules = re.findall(r"`(drivers\.[a-z0-9_.]+)`", text)
    names = {name for module in modules for name in vars(import_module(module))}
    assert len(modules) > 5
    classes = re.findall(r"`([A-Z]\w+Meter|MixedBus|\w+_from_profile)`", text)
    assert len(classes) == 7 and set(classes) <= names
