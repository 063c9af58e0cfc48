"""What the package and the bundle say on a system that they were not made for. Nothing is changed there."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

UNITS = Path(__file__).resolve().parent.parent.parent / "systemd"
HERE = f"{sys.version_info.major}.{sys.version_info.minor} {platform.machine()}"


def test_another_python_is_refused_in_words(tmp_path: Path) -> None:
    """Exit code 3: systemd does not try again. No traceback of a library that was compiled for the other one."""
    launcher = tmp_path / "meterhouse"
    launcher.write_text((UNITS / "launcher").read_text().replace("@PYTHON@", "3.9"))
    said = subprocess.run(
        [sys.executable, "-I", str(launcher), "run"], check=False, capture_output=True, text=True, timeout=200
    )
    assert said.returncode == 3 and "Traceback" not in said.stderr
    assert f"built for Python 3.9, but /usr/bin/python3 is {HERE.split(maxsplit=1)[0]} now" in said.stderr


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """The folder of a bundle, without its wheels."""
    folder = tmp_path / "meterhouse-0.1.0"
    folder.mkdir()
    shutil.copy(UNITS / "install.sh", folder / "install")
    (folder / "PYTHON").write_text(f"{HERE}\n")
    (folder / "SHA256SUMS").write_text(f"{'0' * 64}  ./PYTHON\n")
    return folder


@pytest.mark.skipif(os.geteuid() != 0, reason="the script wants root before anything else (run as root)")
@pytest.mark.parametrize(
    ("wanted", "python", "what"),
    [
        ("3.9 x86_64", sys.executable, "this bundle is for Python 3.9 x86_64"),
        (HERE, "python9", "python9 not found"),
        (HERE, sys.executable, "the bundle is incomplete or damaged; copy it again"),
    ],
)
def test_a_bundle_looks_before_it_changes_anything(bundle: Path, wanted: str, python: str, what: str) -> None:
    if "damaged" in what and not shutil.which("systemctl"):
        pytest.skip("no systemd here (apt: systemd)")
    (bundle / "PYTHON").write_text(f"{wanted}\n")
    env = {**os.environ, "PYTHON": python}
    said = subprocess.run([bundle / "install"], check=False, capture_output=True, text=True, timeout=200, env=env)
    assert said.returncode == 1 and what in said.stderr, said.stderr
    assert not Path("/opt/meterhouse.new").exists()


@pytest.mark.parametrize("given", ["--help", "--purge", "--uninstall", "--purge --remove", ""])
def test_an_argument_that_the_bundle_does_not_know_installs_nothing(bundle: Path, given: str) -> None:
    """`./install --help` replaced the program and restarted the agent."""
    said = subprocess.run(
        [bundle / "install", *given.split(" ")], check=False, capture_output=True, text=True, timeout=200
    )
    assert (said.returncode, said.stderr) == (1, "install: usage: ./install [--remove [--purge]]\n")
