"""Writes new configuration files. A file is written whole or not at all, and never over an existing file."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from pathlib import Path
from typing import Any, Final

from drivers.model import GatewayError, UsageError

MODE: Final = 0o640  # the owner (root) may write and the agent's group may read, as for the files of the package
FOLDER_MODE: Final = 0o750
SECRET_MODE: Final = 0o600
_NO_LINKS: Final = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS)  # FAT and some shared folders have no hard links
_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def toml_text(value: Any) -> str:
    """Return a text, number, list or table as one line of TOML."""
    import json

    if isinstance(value, dict):
        return "{ " + ", ".join(f"{_key(name)} = {toml_text(one)}" for name, one in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml_text, value)) + "]"
    if isinstance(value, bool):
        return "true" if value else "false"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else str(value)


def _key(name: str) -> str:
    return name if name.replace("-", "").replace("_", "").isalnum() and name.isascii() else toml_text(name)


def check_absent(path: Path) -> None:
    """Raise UsageError if the path exists, because a file that a person may have written is never changed."""
    if os.path.lexists(path):
        raise UsageError(
            "already exists and is not overwritten", where=str(path), hint="Edit this file, or move it away"
        )


def check_writable(folder: Path) -> None:
    """Raise UsageError if this user cannot create a file in the folder. Called before any question is asked."""
    nearest = next(path for path in (folder, *folder.absolute().parents) if os.path.exists(path))
    if not os.access(nearest, os.W_OK):
        raise UsageError("this user cannot write here", where=str(nearest), hint="Use sudo, or another folder")


def make_folder(folder: Path, mode: int = FOLDER_MODE) -> None:
    """Create a folder and its missing parents. If root creates a folder, it gets the group of the folder above it.

    ``mode`` overrides the umask, so that the agent can read what root writes for it. A set-group-ID bit that the folder
    inherits stays.
    """
    if os.path.isdir(folder):
        return
    make_folder(folder.parent)
    try:
        folder.mkdir(mode)
        _hand_over(folder, folder.parent)
        with _without_modes():
            folder.chmod(mode | folder.stat().st_mode & stat.S_ISGID)
    except FileExistsError:
        if not os.path.isdir(folder):
            raise UsageError("is not a folder", where=str(folder), hint="Move this file away") from None
    except OSError as error:
        raise _unwritable(folder, error) from error


def write_new(path: Path, text: str, mode: int = MODE) -> None:
    """Write a file durably. The file appears whole or not at all.

    Raises:
        UsageError: the file exists already.
        GatewayError: the file cannot be written.
    """
    check_absent(path)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}.new")
    try:
        descriptor = os.open(draft, _NEW, 0o600)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                if mode != SECRET_MODE:
                    _hand_over(draft, path.parent)
                with _without_modes() if mode & stat.S_IROTH else contextlib.nullcontext():
                    os.fchmod(file.fileno(), mode)
                os.fsync(file.fileno())
            _publish(draft, path)
        except FileExistsError:
            check_absent(path)
        finally:
            draft.unlink(missing_ok=True)  # remove the draft also after an error, such as a full disk
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise _unwritable(path, error) from error


def _without_modes() -> contextlib.suppress:
    """Return a context that ignores a refused change of permissions. File systems such as FAT have no permissions."""
    return contextlib.suppress(PermissionError)


def _publish(draft: Path, path: Path) -> None:
    """Give the draft its name. Raises UsageError or FileExistsError if the path exists."""
    try:
        os.link(draft, path)  # unlike rename, link fails if the path exists
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        check_absent(path)
        draft.rename(path)


def _hand_over(path: Path, folder: Path) -> None:
    """If this process is root, give the file the group of its folder, so that the agent may read the file."""
    if os.geteuid() == 0:
        os.chown(path, -1, folder.stat().st_gid, follow_symlinks=False)


def _unwritable(path: Path, error: OSError) -> GatewayError:
    hint = "Use sudo, or another folder" if isinstance(error, PermissionError) else "Nothing was written to this path"
    return UsageError(f"cannot be written: {error.strerror}", where=str(path), hint=hint)
