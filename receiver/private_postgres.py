"""A private PostgreSQL server for the demo and for tests. It has its own folder, and is reachable only by a Unix
socket.

The PostgreSQL service of the machine is not affected.
"""

from __future__ import annotations

import os
import pwd
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from drivers.model import GatewayError, clean_text

PROGRAMS: Final = Path("/usr/lib/postgresql")
OLDEST: Final = 15  # oldest major version that the platform's queries need
VERSION_S: Final = 30.0  # time limit of `initdb --version`
# The server refuses to run as root. If we are root, it runs as this user, which Debian's package creates.
USER: Final = "postgres"


class NoPostgres(GatewayError):
    """PostgreSQL is not installed on this machine, or does not start."""

    exit_code = 3


def find_programs() -> Path:
    """The folder with ``initdb`` and ``postgres`` of the newest version whose ``initdb`` runs. Raises NoPostgres."""
    found = [folder / "initdb" for folder in PROGRAMS.glob("*/bin") if folder.parent.name.isdigit()]
    found.sort(key=lambda initdb: -int(initdb.parent.parent.name))
    if path := shutil.which("initdb"):
        found.append(Path(path).resolve())
    broken: NoPostgres | None = None
    for initdb in filter(Path.exists, found):  # the package of the client alone has such a folder without initdb
        try:
            if _version(initdb) >= OLDEST:
                return initdb.parent
        except NoPostgres as error:
            broken = broken or error
    raise broken or NoPostgres(
        f"PostgreSQL {OLDEST} or later was not found", where=str(PROGRAMS), hint="apt-get install postgresql"
    )


def _version(initdb: Path) -> int:
    """The major version of an ``initdb``. Raises NoPostgres if the program does not run."""
    try:
        done = subprocess.run([initdb, "--version"], capture_output=True, text=True, check=False, timeout=VERSION_S)
        answer = done.stdout if done.returncode == 0 else done.stderr
    except (OSError, subprocess.TimeoutExpired) as error:
        answer = str(error)
    if version := re.match(r"initdb \(PostgreSQL\) (\d+)", answer):
        return int(version[1])
    why = " ".join(answer.strip().splitlines()[-1:])
    raise NoPostgres(
        f"this program does not run: {clean_text(why, 200)}", where=str(initdb),
        hint="apt-get install --reinstall postgresql",
    )  # fmt: skip


class PrivatePostgres:
    """A server that starts in about a second.

    Args:
        folder: folder for its data, created if missing; None: a temporary folder, which ``stop`` removes.
        settings: settings of the server, such as ``fsync=off``.
        standby_of: a running server. The new server becomes its standby, by streaming replication. None: no standby.
    """

    def __init__(
        self, folder: Path | None = None, settings: Sequence[str] = (), standby_of: PrivatePostgres | None = None
    ) -> None:
        self._programs = find_programs()
        self._own = folder is None
        self.folder = folder or Path(tempfile.mkdtemp(prefix="meterhouse-platform-"))
        self._settings, self._primary = settings, standby_of
        self._user = USER if os.geteuid() == 0 else ""
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def dsn(self) -> str:
        """The DSN to connect with."""
        return f"host={self.folder} dbname=postgres user={self._name()}"

    def start(self) -> None:
        """Create the data folder if it is missing, and start the server.

        Raises NoPostgres, with the last lines of the server's log.
        """
        data = self.folder / "data"
        self.folder.mkdir(parents=True, exist_ok=True)
        if self._user:
            shutil.chown(self.folder, self._user)
        if not data.exists() and self._primary is not None:
            source = ("-h", str(self._primary.folder), "-U", self._name())
            self._run("pg_basebackup", *source, "-D", str(data), "-R", "-c", "fast", "--no-sync")
        elif not data.exists():
            self._run(
                "initdb", "-D", str(data), "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync", "-U", self._name()
            )
        options = [f"unix_socket_directories={self.folder}", "listen_addresses=", *self._settings]
        command = [
            str(self._programs / "postgres"),
            "-D",
            str(data),
            *(part for one in options for part in ("-c", one)),
        ]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, user=self._user or None,
                extra_groups=[] if self._user else None, cwd=self.folder, start_new_session=True,
            )  # fmt: skip
        self._run("pg_isready", "-h", str(self.folder), "-t", "60", "-q", check=False)
        self._wait()

    def stop(self, how: str = "fast") -> None:
        """Stop the server. ``fast`` also removes a temporary folder. ``immediate`` stops the server as a power cut
        would.
        """
        if self._process is not None and self._process.poll() is None:
            self._run("pg_ctl", "-D", str(self.folder / "data"), "-m", how, "-w", "stop", check=False)
            self._process.wait(60)
        self._process = None
        if self._own and how == "fast":
            shutil.rmtree(self.folder, ignore_errors=True)

    def promote(self) -> None:
        """Promote a standby, so that it accepts writes. Patroni does the same if the primary fails. Raises
        NoPostgres.
        """
        self._run("pg_ctl", "-D", str(self.folder / "data"), "-w", "promote")

    def _wait(self) -> None:
        import time

        import psycopg

        until = time.monotonic() + 60
        while True:
            try:
                psycopg.connect(self.dsn, connect_timeout=5).close()
                return
            except psycopg.Error as error:
                if self._process is None or self._process.poll() is not None or time.monotonic() > until:
                    last = (self.folder / "log").read_text(errors="replace").strip().splitlines()[-1:]
                    raise NoPostgres(
                        " ".join(last) or str(error), where=str(self.folder), hint='See the file "log" in this folder'
                    ) from None
                time.sleep(0.05)

    def _name(self) -> str:
        return self._user or pwd.getpwuid(os.geteuid()).pw_name

    def _run(self, program: str, *arguments: str, check: bool = True) -> None:
        done = subprocess.run(
            [str(self._programs / program), *arguments], capture_output=True, user=self._user or None,
            extra_groups=[] if self._user else None, cwd=self.folder, check=False,
        )  # fmt: skip
        if check and done.returncode:
            answer = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines()[-1:]
            raise NoPostgres(
                f"{program}: {' '.join(answer)}",
                where=str(self.folder),
                hint="Is the disk full, or the folder read-only?",
            )
