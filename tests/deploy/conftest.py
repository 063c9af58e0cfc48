"""Packs are made by the store's tests' own kit; an older commit's files come out of git."""

from __future__ import annotations

import subprocess
import tarfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent

# the last commit before the step "0004_declared" of the database
OLDER = "dcacd13c434ee9c200066abfbcfa76470ace5331"


@pytest.fixture(scope="session")
def from_older(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """``from_older("agent", ...)``: these paths as the older commit has them, in a folder of their own."""

    def take(*paths: str) -> Path:
        made = subprocess.run(
            ["git", "-C", str(ROOT), "archive", OLDER, *paths], check=False, capture_output=True, timeout=200
        )
        if made.returncode:
            pytest.skip("no git history here (git fetch --unshallow)")
        folder = tmp_path_factory.mktemp("older")
        with tarfile.open(fileobj=BytesIO(made.stdout)) as tar:
            tar.extractall(folder, filter="data")
        return folder

    return take
