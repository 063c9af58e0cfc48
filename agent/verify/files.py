"""Reads exported packs from folders, files or a pipe.

A ``.jsonl`` file has one object per line, and a ``.json`` file has one object.

Files may be compressed with zstd.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final

from .strict import MAX_PACK_BYTES, ZSTD_MAGIC, ZSTD_STEP, Frames, Refused, inflate
from .verifier import Outcome, Verifier

SUFFIXES: Final = (".jsonl", ".json", ".jsonl.zst", ".json.zst")
BIRTHS: Final = tuple("births" + suffix for suffix in SUFFIXES)  # files with copies of retained births
ONLY: Final = "streams.txt"  # if only some devices were exported, this file has their names, one per line
MAX_ONLY_BYTES, MAX_NAME = 1 << 16, 64
MAX_WINDOW: Final = 1 << 27
# Limit of the cost of everything between two valid objects. An empty line costs 1, and a refused object costs 100 plus
# its brackets and commas.
MAX_REJECTED: Final = 60_000
SKIPPED: Final = 1024  # this many bytes of an oversized line or a refused object cost 1
FREE_BYTES, RATIO = 64 << 20, 1000  # a file may decompress to at most FREE_BYTES plus RATIO times its size


class RejectionBudget:
    """The cost of invalid objects in a file. If the cost is too high, the file is not read further.

    The first invalid object already makes the verdict negative. A few hundred more are read only to report their
    errors.
    """

    def __init__(self) -> None:
        self._left = MAX_REJECTED

    def add(self, cost: int) -> None:
        """Add a cost, such as a number of brackets and commas. Raises Refused if the sum exceeds the limit."""
        self._left -= cost
        if self._left < 0:
            raise Refused("size", "too many invalid objects in this file; the rest is not read")

    def reset(self) -> None:
        """Set the cost to 0. Called after a valid object."""
        self._left = MAX_REJECTED


def _nothing(count: int) -> None:
    """Ignore the progress."""


def find_files(paths: Iterable[Path]) -> list[Path]:
    """Return the files in reading order: key records, checkpoints, births and packs. Each kind is sorted by path.

    Raises:
        FileNotFoundError: a path does not exist.
    """
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            files += (p for p in path.rglob("*") if p.is_file() and p.name.endswith(SUFFIXES))
        elif path.exists():
            files.append(path)
        else:
            raise FileNotFoundError(f"{path}: no such file or folder")
    return sorted(files, key=lambda p: (_rank(p), str(p)))


def find_only(paths: Iterable[Path]) -> list[str]:
    """Return the names of the streams to which the export was restricted; empty if all streams were exported."""
    names: set[str] = set()
    for path in (found for folder in paths if folder.is_dir() for found in folder.rglob(ONLY) if found.is_file()):
        with path.open("rb") as file:
            words = file.read(MAX_ONLY_BYTES).decode(errors="replace").split()
        names.update(word for word in words if len(word) <= MAX_NAME)
    return sorted(names)


def _rank(path: Path) -> int:
    """Return the rank of a file in the order of reading: keys, then checkpoints, then births and packs.

    Key records come first, because only a limited number of objects can wait for keys. The beginning of a .json file is
    read too, because its name may not tell what it contains.
    """
    if path.name.startswith("keys"):
        return 0
    if path.name.endswith(".json"):
        with path.open("rb") as file:
            begin = file.read(4096)
        if b'"records":' in begin:
            return 1
        if b'"heads":' in begin:
            return 2
    return 2 if path.name.startswith("checkpoint") else 3


def read_objects(path: Path, budget: RejectionBudget | None = None) -> Iterator[tuple[bytes, str]]:
    """Yield (bytes, file and line) of each object in a file. Oversized lines are cut, so they are refused later.

    Raises:
        Refused: a compressed file is damaged or cannot be read, or a file has too many invalid objects.
        OSError: the file cannot be read.
    """
    if path.name.endswith((".json", ".json.zst")):
        with path.open("rb") as file:
            yield inflate(file.read(MAX_PACK_BYTES + 1)), str(path)
        return
    with path.open("rb") as file:
        if file.read(4) != ZSTD_MAGIC:
            file.seek(0)
            yield from read_lines(file, str(path), budget)
            return
        file.seek(0)
        yield from read_lines(io.BufferedReader(_Decompressed(file)), str(path), budget)


class _Decompressed(io.RawIOBase):
    """The content of a compressed file, as a file."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._frames, self._held = file, Frames(MAX_WINDOW), memoryview(b"")
        self._taken = self._given = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, into: Any) -> int:
        """Read the next bytes into a buffer. Returns the number of bytes; 0 at the end of the last frame."""
        while not self._held:
            step = self._file.read(ZSTD_STEP)
            if not step:
                self._frames.close()
                return 0
            self._held = memoryview(self._frames.feed(step))
            self._taken, self._given = self._taken + len(step), self._given + len(self._held)
            if self._given > FREE_BYTES + RATIO * self._taken:
                raise Refused("size", f"decompresses to more than {RATIO} times its size; the rest is not read")
        count = min(len(into), len(self._held))
        into[:count], self._held = self._held[:count], self._held[count:]
        return count


def read_lines(
    file: BinaryIO | io.BufferedReader, name: str, budget: RejectionBudget | None = None
) -> Iterator[tuple[bytes, str]]:
    """Yield (line, file name and line number) of each line that is not empty.

    Cuts lines longer than the largest pack.
    """
    budget, number = budget or RejectionBudget(), 0
    while line := file.readline(MAX_PACK_BYTES + 2):
        number += 1
        rest = line
        while len(rest) > MAX_PACK_BYTES and not rest.endswith(b"\n"):  # skip the rest of an oversized line
            rest = file.readline(MAX_PACK_BYTES + 2)
            budget.add(len(rest) // SKIPPED)
        if line := line.strip():
            yield line, f"{name}:{number}"
        else:
            budget.add(1)


def feed_all(
    verifier: Verifier, objects: Iterable[tuple[bytes, str]], budget: RejectionBudget, retained: bool
) -> Iterator[int]:
    """Feed the objects of a file to the verifier. Yields the number of objects so far. Raises Refused, OSError."""
    verifier.keys_left = MAX_REJECTED
    try:
        for count, (raw, where) in enumerate(objects, 1):
            before = verifier.rejected_cost
            outcome = verifier.feed(raw, None, where, retained=retained)
            if cost := verifier.rejected_cost - before:
                budget.add(cost + len(raw) // SKIPPED)
            elif outcome in (Outcome.VERIFIED, Outcome.TAKEN):
                budget.reset()
                verifier.keys_left = MAX_REJECTED
            yield count
    finally:
        verifier.keys_left = None


def read_stream(verifier: Verifier, file: BinaryIO, name: str) -> None:
    """Feed the objects from a pipe to the verifier. Each line is one object."""
    budget = RejectionBudget()
    try:
        for _ in feed_all(verifier, read_lines(file, name, budget), budget, False):
            continue
    except Refused as error:
        verifier.refuse(error, name)


def read_paths(verifier: Verifier, paths: Iterable[Path], progress: Callable[[int], None] = _nothing) -> None:
    """Feed all objects in files and folders to the verifier. Unreadable parts of a file count as refused.

    Args:
        progress: called now and then with the number of objects read.

    Raises:
        OSError: a path does not exist or may not be read.
    """
    paths, total = list(paths), 0
    verifier.narrow(find_only(paths))
    for path in find_files(paths):
        verifier.new_file()
        budget = RejectionBudget()
        try:
            for _ in feed_all(verifier, read_objects(path, budget), budget, path.name in BIRTHS):
                total += 1
                if total % 500 == 0:
                    progress(total)
        except Refused as error:
            verifier.refuse(error, str(path))
    progress(total)
