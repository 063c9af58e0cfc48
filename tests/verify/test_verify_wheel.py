"""The wheel `meterhouse_verify` as a platform installs it: alone with `cryptography`, small, and quick to import."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import zstandard

import agent
import agent.verify
from tests.kits.signed import Key
from tests.verify.make_vectors import VECTORS

ROOT = VECTORS.parents[1]
PIN = Key(1).kid
MOST_BYTES = 150_000
# Without site-packages: the standard library, the wheel, and of the environment only what the wheel needs.
ONLY = """
import importlib.abc, json, os, sys
from pathlib import Path

class Only(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        allowed = {"meterhouse_verify", "cryptography", "cffi", "_cffi_backend"} | {*os.environ["ALSO"].split()}
        if name.partition(".")[0] not in sys.stdlib_module_names | allowed:
            raise ModuleNotFoundError(f"{name} is not here", name=name)

sys.meta_path.insert(0, Only())
"""
IMPORTED = """
before = set(sys.modules)
import meterhouse_verify
first = sorted(set(sys.modules) - before)
from meterhouse_verify import KeyRing, PointTable, Verifier, check, check_checkpoint, check_keys, read_paths
roots = sorted({name.partition(".")[0] for name in set(sys.modules) - before})
print(json.dumps([first, roots, meterhouse_verify.__file__]))
"""
MISSING = """
from meterhouse_verify import Live, LiveError, Verifier, read_paths
from meterhouse_verify.report_text import as_text
found = []
for folder in sys.argv[1:]:
    verifier = Verifier(["%s"])
    read_paths(verifier, [Path(folder)])
    report = verifier.finish()
    as_text(report)
    found.append((report.verdict.value, report.reasons, report.packs))
try:
    Live("mqtt://127.0.0.1").start()
except LiveError as error:
    found.append(str(error))
print(json.dumps(found))
"""
VERDICTS = """
import base64
from meterhouse_verify import Verifier
found = {}
for case in json.loads(Path(sys.argv[1]).read_bytes()):
    verifier = Verifier(case["trust"])
    for item in case["objects"]:
        verifier.feed(item["text"].encode() if "text" in item else base64.b64decode(item["base64"]), item["topic"])
    report = verifier.finish()
    found[case["name"]] = [report.verdict.value, report.failures, report.packs]
print(json.dumps(found))
"""
NAMES = """
import meterhouse_verify
for name in meterhouse_verify.__all__:
    value = getattr(meterhouse_verify, name)
    assert value.__module__.startswith("meterhouse_verify."), name
print(json.dumps([meterhouse_verify.__version__, meterhouse_verify.__all__]))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    venv = {**os.environ, "VENV": sys.prefix}
    tool = [str(ROOT / "tools/verify-wheel"), str(out), "--no-build-isolation", "--no-index"]
    done = subprocess.run(tool, env=venv, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    (made,) = out.iterdir()
    return made


@pytest.fixture(scope="module")
def installed(wheel: Path) -> Path:
    """A folder with nothing but the wheel: pip puts it there as into any environment."""
    folder = wheel.parent / "installed"
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", str(folder), str(wheel)]
    subprocess.run(pip, check=True, timeout=300)
    return folder


def run(installed: Path, program: str, *args: str, cwd: Path, also: str = "zstandard") -> list[str]:
    """The lines that a program prints that has the wheel, ``cryptography`` and ``also``."""
    path = os.pathsep.join([str(installed), *(each for each in sys.path if each.endswith("site-packages"))])
    done = subprocess.run(
        [sys.executable, "-S", "-c", ONLY + program, *args], cwd=cwd, env={"PYTHONPATH": path, "ALSO": also},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.process
def test_the_wheel_is_small_and_holds_the_folder_only(wheel: Path) -> None:
    assert wheel.stat().st_size <= MOST_BYTES
    assert wheel.name == f"meterhouse_verify-{agent.__version__}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as opened:
        names = opened.namelist()
        about = next(opened.read(name).decode() for name in names if name.endswith("METADATA"))
    here = Path(agent.verify.__file__).parent
    inside = {name.partition("/")[2] for name in names if name.startswith("meterhouse_verify/")}
    assert inside == {path.name for path in here.glob("*.py")} | {"py.typed"}
    assert re.findall(r"^Requires-Dist: ([\w-]+)(?![^\n]*extra)", about, re.M) == ["cryptography"]
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_both_packages_have_one_version() -> None:
    assert agent.verify.__version__ == agent.__version__


@pytest.mark.process
def test_an_import_loads_what_it_needs_and_no_more(installed: Path, tmp_path: Path) -> None:
    """60 ms are the bench's (`python -m bench.verify --import`); this is what they are spent on."""
    first, names, where = json.loads(run(installed, IMPORTED, cwd=tmp_path)[-1])
    assert Path(where).is_relative_to(installed)
    assert [name for name in first if "." in name or name == "cryptography"] == [], "names are imported on first use"
    assert {"meterhouse_verify", "cryptography"} <= set(names)
    slow = {"asyncio", "email", "http", "logging", "paho", "socket", "ssl", "subprocess", "urllib", "zstandard"}
    assert not slow & set(names)
    ours = {"_cffi_backend", "cffi", "cryptography", "meterhouse_verify"}
    assert set(names) <= sys.stdlib_module_names | ours | {"_openssl"}


@pytest.mark.process
def test_the_vectors_get_the_same_verdict(installed: Path, tmp_path: Path) -> None:
    cases = json.loads((VECTORS / "cases.json").read_bytes())
    expect = {case["name"]: [case["expect"][key] for key in ("verdict", "failures", "packs")] for case in cases}
    assert json.loads(run(installed, VERDICTS, str(VECTORS / "cases.json"), cwd=tmp_path)[-1]) == expect


@pytest.mark.process
def test_what_needs_a_package_that_is_missing_says_so(installed: Path, tmp_path: Path) -> None:
    """It is no fault of the gateway."""
    packed = tmp_path / "packed"
    packed.mkdir()
    for name in ("keys.json", "inv1.jsonl"):
        (packed / f"{name}.zst").write_bytes(zstandard.compress((VECTORS / "export" / name).read_bytes()))
    said = run(installed, MISSING % PIN, str(VECTORS / "export"), str(packed), cwd=tmp_path, also="")
    plain, compressed, live = json.loads(said[-1])
    assert plain == ["verified", [], 10]
    why = "compressed with zstd, and the package zstandard is not installed"
    assert compressed == ["incomplete", [f"objects or files that were not read: 2 ({why})"], 0]
    assert live == "the package paho-mqtt is not installed"


@pytest.mark.process
def test_every_public_name_is_there(installed: Path, tmp_path: Path) -> None:
    version, names = json.loads(run(installed, NAMES, cwd=tmp_path, also="paho")[-1])
    assert (version, names) == (agent.__version__, agent.verify.__all__)


def blocks(page: str) -> list[str]:
    """The programs of a page that use the wheel."""
    found = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / page).read_text("utf-8"), re.DOTALL)
    return [block for block in found if "meterhouse_verify" in block]


EXAMPLES = [(page, n) for page in ("api.md", "verify.md") for n in range(len(blocks(page)))]


@pytest.mark.process
@pytest.mark.parametrize(("page", "number"), EXAMPLES)
def test_an_example_of_the_pages_runs_as_it_stands(page: str, number: int, installed: Path, tmp_path: Path) -> None:
    """In a folder that has an export, the vectors', and prints what the page says."""
    (tmp_path / "export").symlink_to(VECTORS / "export")
    program = blocks(page)[number]
    said = [line.partition("# -> ")[2] for line in program.splitlines() if "# -> " in line]
    assert said, "an example that shows nothing"
    assert run(installed, program, cwd=tmp_path) == said


def test_both_pages_show_the_wheel() -> None:
    assert {page for page, _ in EXAMPLES} == {"api.md", "verify.md"}
