"""Files that a command writes. They appear complete or not at all. CSV cells never contain a spreadsheet formula."""

from __future__ import annotations

import contextlib
import csv
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final, Self, TextIO

from agent.cli.common import clean
from drivers.model import GatewayError, UsageError

MAX_FILES = 10_000  # limit of the files in one export; an export has one file for each stream, and a few more
SPARE_BYTES = 256 << 20
# The first characters of a formula. East Asian keyboards write the full-width forms, which spreadsheets treat alike.
FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
_NUMBER: Final = re.compile(r"[-+]?[0-9]+(\.[0-9]+)?([eE][-+]?[0-9]+)?")
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """In this context, an OSError becomes a GatewayError that names the file."""
    try:
        yield
    except OSError as error:
        raise GatewayError(f"cannot write the file ({error.strerror})", where=str(path)) from error


def check_room(fd: int, path: Path) -> None:
    """Raise GatewayError if the file system of ``fd`` is almost full. Space reserved for root counts as used."""
    disk = os.fstatvfs(fd)
    if disk.f_bavail * disk.f_frsize < min(SPARE_BYTES, disk.f_blocks * disk.f_frsize // 50):
        hint = "Nothing was written. Choose a shorter period with --from and --to, or another disk"
        raise GatewayError("not enough space on the disk", where=str(path), hint=hint)


def _is_free(path: Path) -> bool:
    """True if this path is an empty folder, or if this user can see nothing there."""
    try:
        return not os.path.exists(path) or (path.is_dir() and not any(path.iterdir()))
    except OSError:
        return False


class FolderDraft:
    """A folder that is written under a hidden name beside ``path``; ``keep`` renames it to ``path``.

    Files are created relative to open directory descriptors, so that another user who may write to the parent folder
    cannot redirect them with a symbolic link.

    Raises:
        UsageError: ``path`` exists and is not an empty folder, or its parent cannot be written.
    """

    def __init__(self, path: Path, compress: bool) -> None:
        self.path, self._compress = path, compress
        if path.name in ("", "..") or not _is_free(path):
            raise UsageError("already exists", where=str(path), hint="Give the name of a new folder")
        self._draft = f".{path.name}.{secrets.token_hex(4)}"
        self._stack, self._held = ExitStack(), ExitStack()
        try:
            self._parent = self._hold(os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
            os.mkdir(self._draft, 0o700, dir_fd=self._parent)
            self._folder = self._hold(os.open(self._draft, _FOLDER, dir_fd=self._parent))
            if os.fstat(self._folder).st_uid != os.geteuid():
                raise PermissionError(13, "another user has changed the folder meanwhile")
        except OSError as error:
            self._held.close()
            raise UsageError(f"cannot write in this folder ({error.strerror})", where=str(path.parent)) from error
        self._packs, self._files = -1, 0
        self._open: dict[str, BinaryIO] = {}
        self.size_bytes = 0

    def _hold(self, fd: int) -> int:
        self._held.callback(os.close, fd)
        return fd

    def __enter__(self) -> FolderDraft:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            self._stack.close()
        shutil.rmtree(self._draft, ignore_errors=True, dir_fd=self._parent)
        self._held.close()

    def add(self, file: str, lines: Iterable[bytes]) -> None:
        """Append lines to a file. All pieces of a file must be added before the next file.

        Raises OSError, GatewayError.
        """
        check_room(self._folder, self.path)
        if file not in self._open:
            self._files += 1
            if self._files > MAX_FILES:
                hint = "Nothing was written. Check which program listens on the agent's socket"
                raise GatewayError(f"the agent's answer has more than {MAX_FILES} files", where="export", hint=hint)
            self._stack.close()  # close the previous file, because it is complete
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
        """Finish the folder: move it to ``path``, with the permissions of the umask."""
        self._stack.close()
        mask = os.umask(0o077)
        os.umask(mask)
        os.fchmod(self._folder, 0o777 & ~mask)
        if not stat.S_ISDIR(os.stat(self._draft, dir_fd=self._parent, follow_symlinks=False).st_mode):
            raise PermissionError(13, "another user has changed the folder meanwhile")
        os.rename(self._draft, self.path.name, src_dir_fd=self._parent, dst_dir_fd=self._parent)


class TextDraft:
    """A text file that is written under a temporary name beside ``path``; ``keep`` renames it to ``path``.

    Raises:
        UsageError: ``path`` exists and is not a regular file (a link is not followed), or its folder cannot be written.
    """

    def __init__(self, path: Path, encoding: str = "utf-8") -> None:
        self.path, self._draft = path, path.with_name(f".{path.name}.{secrets.token_hex(4)}.new")
        try:
            with contextlib.suppress(FileNotFoundError):
                if not stat.S_ISREG(path.lstat().st_mode):
                    raise UsageError("not a regular file", where=str(path), hint="Give a file name")
            self._file: TextIO = os.fdopen(os.open(self._draft, _NEW, 0o666), "w", encoding=encoding, newline="")
        except OSError as error:
            raise UsageError(f"cannot write the file ({error.strerror})", where=str(path)) from error

    def write(self, text: str) -> None:
        """Append text. Raises OSError."""
        self._file.write(text)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self._draft.unlink(missing_ok=True)

    def check_room(self) -> None:
        """Raise GatewayError if the disk is almost full."""
        check_room(self._file.fileno(), self.path)

    def keep(self) -> None:
        """Finish the file: move it to ``path``, where it replaces an older file."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._draft.replace(self.path)


class CsvDraft(TextDraft):
    """A CSV file that is written like a ``TextDraft``."""

    def __init__(self, path: Path, head: Sequence[str], encoding: str = "utf-8", line_end: str = "\r\n") -> None:
        super().__init__(path, encoding)
        self.rows = 0
        self._writer = csv.writer(self._file, lineterminator=line_end)
        self._writer.writerow(head)

    def add_row(self, cells: Iterable[object]) -> None:
        """Append a row, with each cell made safe for spreadsheets. Raises OSError."""
        self._writer.writerow([safe_cell(cell) for cell in cells])
        self.rows += 1


def safe_cell(value: object) -> object:
    """Return ``value`` in a form that a spreadsheet does not treat as a formula.

    A text that looks like a formula gets an apostrophe before it. Control characters and line breaks are removed from
    texts. Numbers stay numbers.
    """
    if not isinstance(value, str):
        return value
    formula = value.startswith(FORMULA) and not _NUMBER.fullmatch(value)
    return clean(f"'{value}" if formula else value)
