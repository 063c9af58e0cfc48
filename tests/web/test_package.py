"""What is installed: templates and scripts are in the wheel, and uPlot is the one that its authors published."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from agent.web.page_base import static_files

ROOT = Path(__file__).resolve().parents[2]
WEB = ROOT / "agent/web"
VENDOR = WEB / "static/vendor"
PUBLISHED = Path(sys.prefix) / "node/node_modules/uplot"


def needed() -> set[str]:
    return {
        str(p.relative_to(WEB)) for folder in ("templates", "static") for p in (WEB / folder).rglob("*") if p.is_file()
    }


@pytest.mark.process
def test_a_wheel_holds_templates_and_static_files(tmp_path: Path) -> None:
    """By the command that fills a wheel, without compiling kernels."""
    code = (
        "from setuptools import Distribution; d = Distribution(); d.parse_config_files(); d.script_name = 'setup.py'; "
        f"c = d.get_command_obj('build_py'); c.build_lib = {str(tmp_path)!r}; c.ensure_finalized(); c.run()"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, timeout=300)
    built = tmp_path / "agent/web"
    assert {str(p.relative_to(built)) for p in built.rglob("*") if p.suffix != ".py"} >= needed()
    assert (built / "static/vendor/uPlot.iife.min.js").read_bytes() == (VENDOR / "uPlot.iife.min.js").read_bytes()


def test_git_has_them_all() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a clone")
    listed = subprocess.run(
        ["git", "ls-files", "agent/web"], cwd=ROOT, check=True, capture_output=True, text=True, timeout=60
    )
    assert {line.removeprefix("agent/web/") for line in listed.stdout.splitlines()} >= needed()


def hashes() -> dict[str, str]:
    return {
        name: digest for digest, name in (line.split() for line in (VENDOR / "SHA512SUMS").read_text().splitlines())
    }


def test_vendored_files_are_as_listed() -> None:
    found = {path.name: hashlib.sha512(path.read_bytes()).hexdigest() for path in VENDOR.iterdir()}
    assert {name: digest for name, digest in found.items() if name in hashes()} == hashes()
    assert found.keys() - hashes().keys() == {"SHA512SUMS", "VERSION"}
    assert "agent/web/static/vendor/*" in (ROOT / "systemd/debian/copyright").read_text()
    assert (
        "Leon Sorokin" in (ROOT / "systemd/debian/copyright").read_text() and "MIT" in (VENDOR / "LICENSE").read_text()
    )


def test_vendored_files_are_those_of_npm() -> None:
    name, version = (VENDOR / "VERSION").read_text().split()
    package = PUBLISHED / "package.json"
    if not package.exists() or f'"version": "{version}"' not in package.read_text():
        pytest.skip(f"no {name} {version} of npm here")
    for file in hashes():
        theirs = PUBLISHED / file if file == "LICENSE" else PUBLISHED / "dist" / file
        assert hashlib.sha512(theirs.read_bytes()).hexdigest() == hashes()[file], file


def test_the_first_view_is_small() -> None:
    """Page, style and script of the first view, and of a day with its charts."""
    sizes = {name: len(one.data) for name, one in static_files().items()}
    assert sum(sizes.values()) < 150_000, sizes
