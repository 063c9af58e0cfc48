"""The verifier as a platform installs it: its folder and `cryptography`, nothing else of the agent or its packages."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import zstandard

import agent.verify
from tests.kits.signed import Key
from tests.verify.make_vectors import VECTORS

PIN = Key(1).kid
ALONE = """
import importlib.abc, json, sys
from pathlib import Path

class Only(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        root = name.partition(".")[0]
        if root not in sys.stdlib_module_names | {"agent", "cryptography", "cffi", "_cffi_backend"}:
            raise ModuleNotFoundError(f"{name} is not here", name=name)

sys.meta_path.insert(0, Only())
sys.path.insert(0, sys.argv[1])
from agent.verify import Verifier
from agent.verify.files import read_paths
from agent.verify.live import Live, LiveError
from agent.verify.report_text import as_text
found = []
for folder in sys.argv[3:]:
    verifier = Verifier([sys.argv[2]])
    read_paths(verifier, [Path(folder)])
    report = verifier.finish()
    as_text(report)
    found.append((report.verdict.value, report.reasons, report.packs))
try:
    Live("mqtt://127.0.0.1").start()
except LiveError as error:
    found.append(str(error))
loaded = sorted(m for m in sys.modules if m.startswith("agent"))
print(json.dumps([found, loaded]))
"""


def test_it_runs_with_nothing_but_cryptography(tmp_path: Path) -> None:
    """What needs a package that is missing says so, and is no fault of the gateway."""
    alone, packed = tmp_path / "alone" / "agent", tmp_path / "packed"
    here = Path(agent.verify.__file__).parent
    shutil.copytree(here, alone / "verify", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(here.parent / "__init__.py", alone)
    packed.mkdir()
    for name in ("keys.json", "inv1.jsonl"):
        (packed / f"{name}.zst").write_bytes(zstandard.compress((VECTORS / "export" / name).read_bytes()))
    done = subprocess.run(
        [sys.executable, "-c", ALONE, str(alone.parent), PIN, str(VECTORS / "export"), str(packed)],
        capture_output=True, text=True, timeout=300, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (plain, compressed, live), loaded = json.loads(done.stdout)
    assert plain == ["verified", [], 10]
    assert compressed == ["incomplete", [f"2 objects or files not read: {MISSING}"], 0]
    assert live == "the package paho-mqtt is not installed"
    assert all(name == "agent" or name.startswith("agent.verify") for name in loaded)


MISSING = "compressed with zstd, and the package zstandard is not installed"
