"""The loops of the kernels do not touch Python: Cython's annotated pages say so. A step of ``make lint``.

A compiler works for half a minute on these pages, so they are kept in build/ until a kernel or Cython changes.
"""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from hashlib import sha256
from html import unescape
from pathlib import Path
from types import ModuleType

import pytest

pytestmark = [pytest.mark.lint, pytest.mark.timeout(600)]
EXT = Path(__file__).parents[2] / "ext"
KEPT = EXT.parent / "build" / "annotated"
SOURCES = sorted(EXT.glob("*.pyx"))
SHARED = sorted(EXT.glob("*.pxd"))


def without_gil(source: Path) -> list[int]:
    """Numbers of the lines under a ``nogil``, of functions and of blocks."""
    lines, found, inside = source.read_text().splitlines(), [], -1
    for number, line in enumerate(lines, 1):
        indent = len(line) - len(line.lstrip())
        if line.strip() and indent <= inside:
            inside = -1
        if inside >= 0:
            found.append(number)
        elif re.search(r"\bnogil:\s*(#.*)?$", line):
            inside = indent
    return found


@pytest.fixture(scope="module")
def pages() -> Mapping[str, Path]:
    """Of each kernel the folder with its annotated page and its C code.

    Kept in build/ under a name that says from which sources, and by which Cython: nothing else changes them.
    """
    build = pytest.importorskip("Cython.Build", reason="no Cython here (make lint installs it)")
    from Cython import __version__ as version

    shared = {path.name: path.read_bytes() for path in [*SHARED, EXT / "__init__.py"]}
    found = {}
    for source in SOURCES:
        sources = {source.name: source.read_bytes(), **shared}
        name = sha256(repr((version, sys.version_info[:2], sorted(sources.items()))).encode()).hexdigest()[:16]
        found[source.stem] = KEPT / f"{source.stem}-{name}"
        if not found[source.stem].exists():
            annotate(build, sources, source.stem, found[source.stem])
    return found


def annotate(build: ModuleType, sources: Mapping[str, bytes], stem: str, into: Path) -> None:
    KEPT.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=KEPT) as folder, pytest.MonkeyPatch.context() as patch:
        ext = Path(folder) / "ext"
        ext.mkdir()
        for name, text in sources.items():
            (ext / name).write_bytes(text)
        patch.chdir(folder)
        build.cythonize([f"ext/{stem}.pyx"], annotate=True, quiet=True)
        with suppress(OSError):  # another run was faster
            ext.rename(into)


@pytest.mark.parametrize("source", SOURCES, ids=lambda p: p.stem)
def test_no_line_under_nogil_touches_python(pages: Mapping[str, Path], source: Path) -> None:
    page = (pages[source.stem] / f"{source.stem}.html").read_text()
    scores = {
        int(line): int(score)
        for score, line in re.findall(r'<pre class="cython line score-(\d+)"[^>]*>.*?<span class="">(\d+)</span>', page)
    }
    text = source.read_text().splitlines()
    assert len(scores) == len(text), "the page lists every line"
    assert max(scores.values()) > 0, "and scores those that do touch Python"
    yellow = [f"{source.name}:{n}: {text[n - 1].strip()}" for n in without_gil(source) if scores[n]]
    assert not yellow


@pytest.mark.parametrize("shared", SHARED, ids=lambda p: p.stem)
def test_no_inline_function_touches_python(pages: Mapping[str, Path], shared: Path) -> None:
    """What a .pxd holds is on no annotated page: its functions are looked up in the C code."""
    code = "".join(unescape(path.read_text()) for page in pages.values() for path in page.glob("*.c*"))
    names = re.findall(r"^cdef inline [^(]*?(\w+)\(", shared.read_text(), re.MULTILINE)
    assert names
    for name in names:
        pattern = rf"__pyx_f_3ext_\d+{shared.stem}_{name}\([^;{{]*\) \{{\n(.*?)\n\}}\n"
        bodies = re.findall(pattern, code, re.DOTALL)
        assert bodies, f"{name} of {shared.name} is used by no kernel"
        for body in bodies:
            plain = re.sub(r"/\*.*?\*/", "", body, flags=re.DOTALL)
            touched = set(re.findall(r"\b(?:Py[A-Z_]\w*|__Pyx_\w+)", plain)) - {"Py_ssize_t"}
            assert not touched, f"{name} of {shared.name} touches {touched}"
