"""An export on its way to the disk: a folder that appears whole or not at all, and readings as CSV for people."""

from __future__ import annotations

import csv
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self, TextIO

from agent.cli.common import tidy
from agent.cli.csv_cells import safe_cell
from drivers.model import UsageError

CSV_HEAD = ("time", "device", "point", "value", "unit", "quality")


class Folder:
    """Files of signed objects under a hidden name beside ``path``; ``keep`` puts them there.

    Raises:
        UsageError: there is something at ``path`` already, or the place cannot be written.
    """

    def __init__(self, path: Path, compress: bool) -> None:
        self.path, self._compress = path, compress
        if path.exists() and not (path.is_dir() and not any(path.iterdir())):
            raise UsageError("there is something already", where=str(path), hint="Name a folder that does not exist")
        try:
            self._draft = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        except OSError as error:
            raise UsageError(f"cannot be written ({error.strerror})", where=str(path.parent)) from error
        self._open: dict[str, BinaryIO] = {}
        self._stack = ExitStack()
        self.size_bytes = 0

    def __enter__(self) -> Folder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
        shutil.rmtree(self._draft, ignore_errors=True)

    def add(self, file: str, lines: Iterable[bytes]) -> None:
        """Append lines to one of the files. Pieces of one file come one after the other."""
        if file not in self._open:
            self._stack.close()  # the one before is complete
            self._open = {file: self._begin(file)}
        for line in lines:
            self._open[file].write(line + b"\n")

    def _begin(self, file: str) -> BinaryIO:
        path = self._draft / file
        path.parent.mkdir(exist_ok=True)
        raw = self._stack.enter_context(path.open("wb"))
        self._stack.callback(lambda: os.fsync(raw.fileno()))
        self._stack.callback(raw.flush)
        if not self._compress or not file.startswith("packs/"):
            return raw
        import zstandard

        path.rename(path.with_name(path.name + ".zst"))
        return self._stack.enter_context(zstandard.ZstdCompressor(level=9).stream_writer(raw, closefd=False))

    def keep(self) -> None:
        """All is there: let it appear."""
        self._stack.close()
        self._draft.chmod(0o755)
        self.size_bytes = sum(path.stat().st_size for path in self._draft.rglob("*") if path.is_file())
        self._draft.rename(self.path)


class CsvDraft:
    """A table on its way, written under another name until ``keep``. Raises UsageError where it cannot be written."""

    def __init__(self, path: Path, head: Sequence[str], encoding: str = "utf-8", line_end: str = "\r\n") -> None:
        self.path, self._draft = path, path.with_name(f".{path.name}.{os.getpid()}.new")
        self.rows = 0
        try:
            self._file: TextIO = self._draft.open("w", encoding=encoding, newline="")
        except OSError as error:
            raise UsageError(f"cannot be written ({error.strerror})", where=str(path)) from error
        self._writer = csv.writer(self._file, lineterminator=line_end)
        self._writer.writerow(head)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self._draft.unlink(missing_ok=True)

    def keep(self) -> None:
        """All is there: let it appear, over an older one too."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._draft.replace(self.path)


class Table(CsvDraft):
    """Readings as CSV."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, CSV_HEAD)

    def add(self, lines: Iterable[bytes], from_ms: int, to_ms: int) -> None:
        """The readings of packs that were read in ``[from_ms, to_ms)``."""
        for line in lines:
            for time_ms, row in rows_of(line):
                if from_ms <= time_ms < to_ms:
                    self._writer.writerow(row)
                    self.rows += 1


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
        return str(safe_cell(tidy(str(record["vs"]), 500)))
    if "vb" in record:
        return "true" if record["vb"] else "false"
    value = record["v"]
    return f"{value:f}" if isinstance(value, Decimal) else str(value)
