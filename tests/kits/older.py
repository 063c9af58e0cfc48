"""Older code from the git history, with its own kernels, or with today's if only some names have changed."""

from __future__ import annotations

import subprocess
import sys
import tarfile
from io import BytesIO
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
_BUILD = "from setuptools import setup; setup()"

# Python to run before any import of the older code
KERNEL_NAMES = "import ext.rates\next.rates.Tally = ext.rates.CounterKernel\n"


def older(commit: str, folder: Path) -> Path:
    """The code of a commit, with its own kernels, which are built here. Skips the test if there is no history."""
    parts = ("agent", "drivers", "ext", "firmware_profiles", "pyproject.toml", "README.md", "LICENSE")
    made = subprocess.run(
        ["git", "-C", str(ROOT), "archive", commit, *parts], check=False, capture_output=True, timeout=200
    )
    if made.returncode:
        pytest.skip("no git history here (git fetch --unshallow)")
    with tarfile.open(fileobj=BytesIO(made.stdout)) as tar:
        tar.extractall(folder, filter="data")
    built = subprocess.run(
        [sys.executable, "-c", _BUILD, "-q", "build_ext", "--inplace"],
        cwd=folder, check=False, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert not built.returncode, built.stderr[-2000:]
    return folder
