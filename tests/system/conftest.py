"""One machine for all tests of this folder, installed as the README says; skipped where none can be booted."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.gateway import Gateway
from tests.system.lab import CACHE, Machine, build_deb, why_not
from tests.system.site_kit import Site


@pytest.fixture(scope="session")
def deb() -> Path:
    if reason := why_not():
        pytest.skip(reason)
    return build_deb()


@pytest.fixture(scope="session")
def gw(deb: Path) -> Iterator[Gateway]:
    folder = CACHE / f"run.{os.getpid()}"  # not below /tmp, which may be too small for a root
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    machine, site = Machine(folder), Site(folder)
    try:
        machine.unpack()
        shutil.copy(deb, machine.root / "root")
        machine.boot(f"--bind={site.port}:/dev/ttyGW0")
        yield Gateway(machine, deb, site)
    finally:
        machine.halt()
        site.stop()
        shutil.rmtree(folder, ignore_errors=True)
