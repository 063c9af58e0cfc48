"""The kernels' tests once more, against kernels built with bounds checks on. Arguments go to pytest.

Cython's checks see typed views only; inside, the kernels use pointers. So the C and C++ code is also built with the
address and undefined-behaviour sanitizers where the compiler has them: the first read or write outside of its memory
ends the run.

Example:
  python -m tests.ext.build_checked -k ring
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer", "-O1", "-g"]
# unaligned is how CPython itself reads in places
SANITIZERS += ["-fno-sanitize=alignment"]


def build(folder: Path, flags: list[str]) -> None:
    """Kernels with checks, in ``folder``/ext."""
    from Cython.Build import cythonize
    from setuptools import Extension
    from setuptools.dist import Distribution

    target = folder / "ext"
    target.mkdir()
    for source in (ROOT / "ext").iterdir():
        if source.suffix in (".py", ".pyx", ".pxd"):
            text = source.read_text()
            if source.suffix == ".pyx":
                text = re.sub("boundscheck=False", "boundscheck=True", text, count=1)
            (target / source.name).write_text(text)
    extensions = []
    for source in sorted(target.glob("*.pyx")):
        cpp = "language = c++" in source.read_text()
        extensions.append(
            Extension(
                f"ext.{source.stem}",
                [f"ext/{source.name}"],
                language="c++" if cpp else "c",
                extra_compile_args=(["-std=c++17"] if cpp else []) + ["-O1"] + flags,
                extra_link_args=flags,
            )
        )
    here = os.getcwd()
    os.chdir(folder)
    try:
        made = Distribution({"name": "checked", "ext_modules": cythonize(extensions, quiet=True)})
        command = made.get_command_obj("build_ext")
        command.inplace, command.parallel = True, True
        command.ensure_finalized()
        command.run()
    finally:
        os.chdir(here)


def sanitizers(folder: Path) -> tuple[list[str], dict[str, str]]:
    """Compiler flags and environment, or none where a small program cannot be built and run with them."""
    compiler = (os.environ.get("CC") or "cc").split()[0]
    (folder / "try.c").write_text("int main(void) { return 0; }\n")
    tried = subprocess.run(
        [compiler, *SANITIZERS, "try.c", "-o", "try"], cwd=folder, capture_output=True, text=True, check=False
    )
    if tried.returncode:
        print(f"without sanitizers: {tried.stderr.strip().splitlines()[-1]}", file=sys.stderr)
        return [], {}
    names = [f"-print-file-name={name}.so" for name in ("libasan", "libubsan", "libstdc++")]
    libraries = [subprocess.check_output([compiler, name], text=True).strip() for name in names]
    preload = " ".join(str(Path(library).resolve()) for library in libraries)
    return SANITIZERS, {"LD_PRELOAD": preload, "ASAN_OPTIONS": "detect_leaks=0"}


def main(arguments: list[str]) -> int:
    folder = Path(tempfile.mkdtemp(prefix="checked-"))
    try:
        flags, environment = sanitizers(folder)
        build(folder, flags)
        # numbers are made by malloc, so that reading behind a bytes object is seen too
        environment |= {"MH_BOUNDS": str(folder), "PYTHONPATH": str(folder), "PYTHONMALLOC": "malloc"}
        command = [sys.executable, "-m", "pytest", "-c", str(ROOT / "pyproject.toml"), "--rootdir", str(ROOT)]
        # what a sanitizer says before it ends the process goes to stderr, which pytest must leave alone
        command += ["--capture=sys", "--timeout", "600", str(ROOT / "tests/ext"), *arguments]
        command += ["-p", "ext.ring"]  # before the tests' packages put the tree's own kernels first
        return subprocess.run(command, cwd=folder, env=os.environ | environment, check=False).returncode
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
