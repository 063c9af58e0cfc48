"""What holds for the text of every kernel: it imports nothing of ours but other kernels, and has its directives."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

EXT = Path(__file__).parents[2] / "ext"
SOURCES = sorted(EXT.glob("*.pyx"))
SHARED = sorted(EXT.glob("*.pxd"))
IMPORT = re.compile(r"^\s*(?:from\s+([\w.]+)\s+c?import\b|c?import\s+([\w., ]+))")
OUTSIDE = {"array", "cpython", "fcntl", "libc", "os", "posix", "typing"}
HEAD = "# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True"


@pytest.mark.parametrize("source", SOURCES + SHARED, ids=lambda p: p.name)
def test_ext_imports_nothing_of_ours(source: Path) -> None:
    """Import-linter does not see a ``cimport``; a kernel stands on C, the standard library and other kernels."""
    for number, line in enumerate(source.read_text().splitlines(), 1):
        if found := IMPORT.match(line):
            for name in re.split(r"[ ,]+", found[1] or found[2]):
                root = name.split(".")[0]
                assert root in OUTSIDE | {"ext"}, f"{source.name}:{number}: {line.strip()}"
                if root == "ext":
                    assert (EXT / f"{name.split('.')[1]}.pxd").exists(), f"{source.name}:{number}: {line.strip()}"


@pytest.mark.parametrize("source", SOURCES + SHARED, ids=lambda p: p.name)
def test_directives_are_in_the_head(source: Path) -> None:
    """Also of a .pxd: its inline functions are compiled with its own directives."""
    text = source.read_text()
    assert text.startswith(HEAD if "nogil" in text else "# cython: language_level=3")
    assert len(text.splitlines()) < 600


@pytest.mark.parametrize("source", SOURCES, ids=lambda p: p.stem)
def test_each_kernel_has_its_stub(source: Path) -> None:
    assert source.with_suffix(".pyi").exists()
