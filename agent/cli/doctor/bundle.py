"""Writes the archive of `doctor --bundle`. It has files for remote support, without passwords and keys."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import secrets
import tarfile
import time
from base64 import b64encode
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from agent.cli.common import read_plain
from agent.cli.doctor.host import secret_files
from drivers.model import UsageError

if TYPE_CHECKING:
    from agent.config import Config

MAX_FILE: Final = 4 << 20  # limit in bytes; a larger file is not read
LEAST_SECRET: Final = 4  # a secret with fewer characters is hidden only where it is a whole word
ENCODINGS: Final = ("utf-8", "utf-16", "gb18030")  # the possible encodings of a password file
HIDDEN: Final = "[hidden]"
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_WORD = (
    r"(?:pas+w(?:or)?[dt]|passphrase|kennwort|\bpass\b|(?<![a-z])pw(?:d)?(?![a-z])|secret|token|(?<![a-z])psk(?![a-z])"
    r"|(?<![a-z])pin(?:-value)?(?![a-z])|api_?key|private_?key|密码|口令|密钥串)"
)
# Finds `password = "..."` in TOML or JSON, and `password=...` on a command line. Does not find password_file and
# password_credential, because these name the place of a secret.
_NAME = rf"{_WORD}[\w.-]*"
_PLACE = r"(?<!_file)(?<!_credential)[\"']?"
_STRING = r'"""[\s\S]*?"""|\'\'\'[\s\S]*?\'\'\'|"(?:[^"\\\n]|\\.)*"|\'[^\'\n]*\''
_TEXT = _STRING + r"|\[[^\]]*\]|[^\s,;&}\]]+"
_VALUE = re.compile(rf"(?i)({_NAME}{_PLACE}\s*[:=：＝]\s*)({_TEXT})")
_REMARK = re.compile(rf"({_STRING})|#[^\n]*")  # a comment in a configuration file
_FILE = re.compile(r"""(?m)^\s*(?:\w+_)?file\s*=\s*["']([^"'\n]+)["']""")
# matches up to the last @, because a password without percent-encoding may contain / and @
_LOGIN_IN_URL = re.compile(r"(://)[^\s\"']{1,300}@")
_PEM = re.compile(r"-----BEGIN [^-]*PRIVATE KEY-----.*?(?:-----END [^-]*PRIVATE KEY-----|\Z)", re.S)


def _word(text: str) -> re.Pattern[str]:
    return re.compile(rf"(?<!\w){re.escape(text)}(?!\w)")


class Redactor:
    """Hides the content of secret files wherever it appears in a text, and everything that looks like a secret.

    Labels are not hidden, because they are names of devices and are published anyway.

    Args:
        config: names the secret files. None if the configuration has errors; then each file that ``texts`` names counts
            as secret.
        folder: relative paths in ``texts`` are relative to this folder.
        texts: the content of the configuration files.
    """

    def __init__(self, config: Config | None, folder: Path, texts: Iterable[str] = ()) -> None:
        self._known: list[str] = []
        named = [folder / name for text in texts for name in _FILE.findall(text)]
        for file in secret_files(config) if config else named:
            self._learn(file)
        self._known.sort(key=len, reverse=True)

    def _learn(self, file: Path) -> None:
        try:
            content = read_plain(file, MAX_FILE)
        except (OSError, ValueError):
            return  # this user cannot read the secret, so the archive cannot contain it either
        for encoding in ENCODINGS:
            with contextlib.suppress(UnicodeError):
                lines = [line.strip("\ufeff \t\r") for line in content.decode(encoding).splitlines()]
                for line in (line for line in lines if line and not line.startswith("-----")):
                    self._known += [line, quote(line, safe=""), json.dumps(line)[1:-1]]
                    self._known.append(b64encode(line.encode()).decode())

    def clean(self, text: str) -> str:
        """Return the text without secrets."""
        text = _PEM.sub(HIDDEN, text)
        for known in self._known:
            text = text.replace(known, HIDDEN) if len(known) >= LEAST_SECRET else _word(known).sub(HIDDEN, text)
        text = _LOGIN_IN_URL.sub(rf"\g<1>{HIDDEN}@", text)
        return _VALUE.sub(lambda found: f'{found[1]}"{HIDDEN}"', text)


def config_texts(file: Path, config: Config | None) -> Mapping[str, str]:
    """Return name in the archive -> text, for all configuration files. The configuration may have errors.

    Comments are removed, because people write logins into them in forms that the patterns for secrets do not match.
    """
    files = config.files if config else (file, *_more_files(file.parent / "conf.d"))
    found = {}
    for path in files:
        name = f"config/conf.d/{path.name}" if path.parent.name == "conf.d" else f"config/{path.name}"
        try:
            text = read_plain(path, MAX_FILE).decode("utf-8")
            found[name] = _REMARK.sub(lambda part: part[1] or "#", text)
        except UnicodeDecodeError:  # the file is left out, because it cannot be searched for secrets
            found[name] = "# left out: it is not text in UTF-8\n"
        except ValueError:
            found[name] = "# left out: not a regular file, or too large\n"
        except OSError as error:  # a symbolic link raises this too
            found[name] = f"# left out: {error.strerror}\n"
    return found


def _more_files(folder: Path) -> list[Path]:
    try:
        return sorted(folder.glob("*.toml"))
    except OSError:  # this user may not read the folder
        return []


def write_bundle(path: Path, texts: Mapping[str, str] | Iterable[tuple[str, str]], redactor: Redactor) -> int:
    """Write a .tar.gz that contains one folder with ``texts``. Returns the size of the archive in bytes.

    Raises UsageError if the archive exists or cannot be written.
    """
    folder = path.name.removesuffix(".gz").removesuffix(".tgz").removesuffix(".tar")
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    if os.path.lexists(path):
        raise UsageError("already exists", where=str(path), hint="Give the name of a new file")
    try:
        with os.fdopen(os.open(draft, _NEW, 0o600), "wb") as raw:
            with tarfile.open(fileobj=raw, mode="w:gz") as archive:
                for name, text in dict(texts).items():
                    data = redactor.clean(text).encode("utf-8", "replace")
                    entry = tarfile.TarInfo(f"{folder}/{name}")
                    entry.size, entry.mtime, entry.mode = len(data), int(time.time()), 0o600
                    archive.addfile(entry, io.BytesIO(data))
            raw.flush()
            os.fsync(raw.fileno())
        os.rename(draft, path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise UsageError(
            f"cannot be written: {error.strerror}", where=str(path), hint="Give the name of another file"
        ) from error
    return path.stat().st_size
