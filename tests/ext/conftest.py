"""A ring to write to, and the promise that a run with bounds checks tests what it says."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import ext.ring
from ext.ring import Ring

CHECKED = os.environ.get("MH_BOUNDS")  # folder of the kernels built by build_checked.py


def pytest_report_header() -> str:
    return f"kernels: {Path(ext.ring.__file__).parent}"


if CHECKED and not Path(ext.ring.__file__).is_relative_to(CHECKED):
    raise RuntimeError(f"MH_BOUNDS is {CHECKED}, but the kernels come from {ext.ring.__file__}")


@pytest.fixture
def new_ring(tmp_path: Path) -> Iterator[Callable[[int], Ring]]:
    """Makes rings of so many bytes; closes them after the test."""
    made: list[Ring] = []

    def new(size_bytes: int = 1 << 20) -> Ring:
        made.append(Ring.create(str(tmp_path / f"{len(made)}.ring"), size_bytes, 7, 9, bytes(range(32))))
        return made[-1]

    yield new
    for ring in made:
        ring.close()


@pytest.fixture(scope="session")
def one_ring(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ring]:
    """One ring for all examples of a property: what is in it already is part of the test."""
    ring = Ring.create(str(tmp_path_factory.mktemp("ring") / "one.ring"), 1 << 18, 1, 2, bytes(32))
    yield ring
    ring.close()
