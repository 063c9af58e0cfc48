"""An export on its way to the disk: a folder that appears whole or not at all, and readings as CSV for people."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, NamedTuple, Self, TextIO

import msgspec

from agent.cli.common import tidy
from agent.cli.csv_cells import safe_cell
from drivers.model import GatewayError, UsageError

CSV_HEAD = ("time", "device", "point", "value", "unit", "quality")
MAX_FILES = 10_000  # streams of one gateway, and the few beside them
SPARE_BYTES = 256 << 20
MOST_DIGITS = 40  # written out; what has more is written with an exponent
# all that an export consists of; an answer that names anything else is none
_FILE = re.compile(
    r"keys[0-9]{0,4}\.json|births\.jsonl|checkpoints\.jsonl|streams\.txt|packs/[a-z0-9_][a-z0-9_-]{0,99}\.packs\.jsonl"
)
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class _Head(msgspec.Struct):
    file: str
    packs: int


_head = msgspec.json.Decoder(_Head)


class Piece(NamedTuple):
    """Lines for the end of one file of the folder."""

    file: str
    lines: list[bytes]
    packs: int  # how many of them count as packs


def from_part(data: bytes) -> Piece:
    """A part of an answer to an export. Raises GatewayError for what is none."""
    head, *lines = data.split(b"\n")
    try:
        facts = _head.decode(head)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise GatewayError("the answer is not an export", where="export", hint=tidy(str(error))) from None
    if not _FILE.fullmatch(facts.file):
        hint = "Nothing was written. Who answers there?"
        raise GatewayError(f"the answer names the file {tidy(facts.file)!r}", where="export", hint=hint)
    return Piece(facts.file, lines, facts.packs)


def check_room(fd: int, path: Path) -> None:
    """Room is left for others on the file system of ``fd``, root's reserve not counted. Raises GatewayError."""
    disk = os.fstatvfs(fd)
    if disk.f_bavail * disk.f_frsize < min(SPARE_BYTES, disk.f_blocks * disk.f_frsize // 50):
        hint = "Nothing was written. Name a shorter time with --from and --to, or another disk"
        raise GatewayError("the disk would be full", where=str(path), hint=hint)


class Folder:
    """Files of signed objects under a hidden name beside ``path``; ``keep`` puts them there.

    Everything is made anew, below directories that are held open: nobody who may write there too can lead it elsewhere.

    Raises:
        UsageError: there is something at ``path`` already, or the place cannot be written.
    """

    def __init__(self, path: Path, compress: bool) -> None:
        self.path, self._compress = path, compress
        if path.name in ("", "..") or (path.exists() and not (path.is_dir() and not any(path.iterdir()))):
            raise UsageError("there is something already", where=str(path), hint="Name a folder that does not exist")
        self._draft = f".{path.name}.{secrets.token_hex(4)}"
        self._stack, self._held = ExitStack(), ExitStack()
        try:
            self._parent = self._hold(os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
            os.mkdir(self._draft, 0o700, dir_fd=self._parent)
            self._folder = self._hold(os.open(self._draft, _FOLDER, dir_fd=self._parent))
            if os.fstat(self._folder).st_uid != os.geteuid():
                raise PermissionError(13, "somebody else changes it just now")
        except OSError as error:
            self._held.close()
            raise UsageError(f"cannot be written ({error.strerror})", where=str(path.parent)) from error
        self._packs, self._files = -1, 0
        self._open: dict[str, BinaryIO] = {}
        self.size_bytes = 0

    def _hold(self, fd: int) -> int:
        self._held.callback(os.close, fd)
        return fd

    def __enter__(self) -> Folder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            self._stack.close()
        shutil.rmtree(self._draft, ignore_errors=True, dir_fd=self._parent)
        self._held.close()

    def add(self, file: str, lines: Iterable[bytes]) -> None:
        """Append lines to one of the files. Pieces of one file follow one another. Raises OSError, GatewayError."""
        check_room(self._folder, self.path)
        if file not in self._open:
            self._files += 1
            if self._files > MAX_FILES:
                hint = "Nothing was written. Who answers there?"
                raise GatewayError(f"the answer names more than {MAX_FILES} files", where="export", hint=hint)
            self._stack.close()  # the one before is complete
            self._open = {file: self._begin(file)}
        for line in lines:
            self._open[file].write(line + b"\n")

    def _begin(self, file: str) -> BinaryIO:
        folder, name = self._folder, file
        if file.startswith("packs/"):
            if self._packs < 0:
                os.mkdir("packs", dir_fd=self._folder)
                self._packs = self._hold(os.open("packs", _FOLDER, dir_fd=self._folder))
            folder, name = self._packs, file.removeprefix("packs/") + (".zst" if self._compress else "")
        raw = self._stack.enter_context(os.fdopen(os.open(name, _NEW, 0o666, dir_fd=folder), "wb"))
        self._stack.callback(self._written, raw)
        if folder == self._folder or not self._compress:
            return raw
        import zstandard

        return self._stack.enter_context(zstandard.ZstdCompressor(level=9).stream_writer(raw, closefd=False))

    def _written(self, raw: BinaryIO) -> None:
        raw.flush()
        os.fsync(raw.fileno())
        self.size_bytes += os.fstat(raw.fileno()).st_size

    def keep(self) -> None:
        """All is there: let it appear, with the rights that the umask leaves."""
        self._stack.close()
        mask = os.umask(0o077)
        os.umask(mask)
        os.fchmod(self._folder, 0o777 & ~mask)
        if not stat.S_ISDIR(os.stat(self._draft, dir_fd=self._parent, follow_symlinks=False).st_mode):
            raise PermissionError(13, "somebody else changes it just now")
        os.rename(self._draft, self.path.name, src_dir_fd=self._parent, dst_dir_fd=self._parent)


class TextDraft:
    """A file on its way, written under another name until ``keep``; it follows no link and replaces nothing but a file.

    Raises:
        UsageError: it cannot be written.
    """

    def __init__(self, path: Path, encoding: str = "utf-8") -> None:
        self.path, self._draft = path, path.with_name(f".{path.name}.{secrets.token_hex(4)}.new")
        try:
            with contextlib.suppress(FileNotFoundError):
                if not stat.S_ISREG(path.lstat().st_mode):
                    raise UsageError("is not a file", where=str(path), hint="Name a file, or one that does not exist")
            self._file: TextIO = os.fdopen(os.open(self._draft, _NEW, 0o666), "w", encoding=encoding, newline="")
        except OSError as error:
            raise UsageError(f"cannot be written ({error.strerror})", where=str(path)) from error

    def write(self, text: str) -> None:
        """More of it. Raises OSError."""
        self._file.write(text)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self._draft.unlink(missing_ok=True)

    def check_room(self) -> None:
        """Before more is written. Raises GatewayError."""
        check_room(self._file.fileno(), self.path)

    def keep(self) -> None:
        """All is there: let it appear, over an older one too."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._draft.replace(self.path)


class CsvDraft(TextDraft):
    """A table on its way."""

    def __init__(self, path: Path, head: Sequence[str], encoding: str = "utf-8", line_end: str = "\r\n") -> None:
        super().__init__(path, encoding)
        self.rows = 0
        self._writer = csv.writer(self._file, lineterminator=line_end)
        self._writer.writerow(head)

    def add_row(self, cells: Iterable[object]) -> None:
        """One row for people. Raises OSError."""
        self._writer.writerow([safe_cell(cell) for cell in cells])
        self.rows += 1


class Table(CsvDraft):
    """Readings as CSV."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, CSV_HEAD)

    def add(self, lines: Iterable[bytes], from_ms: int, to_ms: int) -> None:
        """The readings of packs that were read in ``[from_ms, to_ms)``."""
        self.check_room()
        for line in lines:
            try:
                rows = list(rows_of(line))
            except (ValueError, ArithmeticError, LookupError, TypeError, AttributeError, RecursionError) as error:
                raise GatewayError("the answer has a broken pack", where="export", hint=tidy(repr(error))) from None
            for time_ms, row in rows:
                if from_ms <= time_ms < to_ms:
                    self.add_row(row)


def rows_of(pack: bytes) -> Iterable[tuple[int, tuple[str, ...]]]:
    """(read time in UTC ms, row under ``CSV_HEAD``) of each reading; numbers exactly as the pack has them."""
    body: dict[str, Any] = json.loads(pack, parse_float=Decimal)
    device = body["stream"].rpartition("/")[2]
    base = Decimal(0)
    for record in body.get("e", ()):
        base = Decimal(record.get("bt", base))
        time_ms = round((base + Decimal(record.get("t", 0))) * 1000)
        stamp = datetime.fromtimestamp(time_ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S")
        unit = record.get("u") or record.get("du") or ""
        row = (f"{stamp}.{time_ms % 1000:03d}Z", device, record["n"], _value(record), unit, record.get("q", "good"))
        yield time_ms, row


def _value(record: dict[str, Any]) -> str:
    if "x" in record:
        return str(record["x"])
    if "vs" in record:
        return tidy(str(record["vs"]), 500)
    if "vb" in record:
        return "true" if record["vb"] else "false"
    value = record["v"]
    return f"{value:f}" if isinstance(value, Decimal) and abs(value.adjusted()) < MOST_DIGITS else str(value)
