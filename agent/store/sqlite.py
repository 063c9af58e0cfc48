"""The SQLite file: its only connection, the check of its settings, quarantine of a damaged file, disk reserve."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sqlite3
import stat
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from agent.store import schema
from agent.store.errors import (
    DamageVerifier,
    RetryPolicy,
    StoreDamaged,
    StoreError,
    StoreNewer,
    clear_suspicion,
    damage_error,
    explain,
    is_damage,
    is_small,
    suspicion_count,
)
from drivers.files import sync_directory

log = logging.getLogger("meterhouse.store")
PAGE_BYTES = 4096  # small, because a gateway commits a few kilobytes at a time, and each written page wears the flash
# when the WAL has this number of pages, it is copied into the file; it is small, because the WAL counts towards the cap
CHECKPOINT_PAGES = 64
WAL_LIMIT_BYTES = 4 * 1024 * 1024  # after a large transaction, the WAL file is truncated to this size
BUSY_MS = 2_000
MAX_FINDINGS = 1000
MODE = 0o600  # other users must not open the file, because a reader can lock it
OLDEST_SQLITE = (3, 40, 1)  # SQLite version of the oldest system on which the tests run


@dataclass(frozen=True, slots=True)
class Quarantine:
    """A damaged database that was set aside when the store was opened."""

    path: str  # where the file is now
    reason: str


def _text(data: bytes) -> str:
    return data.decode("utf-8", "backslashreplace")


class _TranslatedErrors:
    """See ``Database.translated_errors``. It has no state, so one object serves all blocks."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def __enter__(self) -> None:
        """Begin the block."""

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """End the block."""
        if isinstance(error, sqlite3.Error):
            raise self._db.explain(error) from error


class Database:
    """The only connection to the database. It belongs to the thread that opened it.

    ``execute`` and ``executemany`` raise SQLite's own errors. ``transaction``, ``query`` and ``translated_errors``
    raise a StoreError instead.
    """

    def __init__(self, conn: sqlite3.Connection, path: Path) -> None:
        self._conn, self.path = conn, path
        self.execute, self.executemany = conn.execute, conn.executemany
        self.damage_verifier = DamageVerifier(conn, path)
        self.findings: list[str] = []  # rows that were changed in the file, in words, since it was opened
        self._in_transaction = False
        self._translated_errors = _TranslatedErrors(self)

    def explain(self, error: sqlite3.Error) -> StoreError:
        """Return the StoreError for an error of SQLite. If SQLite reports damage, the damage is verified first."""
        return self.damage_verifier.classify(error) if is_damage(error) else explain(error, str(self.path))

    def note_damage(self, what: str) -> None:
        """Log that a row was changed in the file, and remember it for a report."""
        log.error("%s: %s", self.path.name, what)
        if len(self.findings) < MAX_FINDINGS:
            self.findings.append(what)

    @contextlib.contextmanager
    def lenient_texts(self) -> Iterator[None]:
        """Return a context manager in which texts with bytes that are not UTF-8 can be read."""
        self._conn.text_factory = _text
        try:
            yield
        finally:
            self._conn.text_factory = str

    def translated_errors(self) -> _TranslatedErrors:
        """Return a context manager that translates an error of SQLite into a StoreError."""
        return self._translated_errors

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Commit at the end of the block, or roll back on any error. Raises StoreError.

        Inside another transaction, the block becomes a part of that transaction.
        """
        if self._in_transaction:
            yield
            return
        self._in_transaction = True
        try:
            self._conn.execute("BEGIN IMMEDIATE")
            yield
            self._conn.execute("COMMIT")
        except BaseException as error:
            with contextlib.suppress(sqlite3.Error):
                if self._conn.in_transaction:
                    self._conn.execute("ROLLBACK")
            if isinstance(error, sqlite3.Error):
                raise self.explain(error) from error
            raise
        finally:
            self._in_transaction = False

    def query(self, sql: str, *values: object) -> list[Any]:
        """Execute a statement and return all rows. Raises StoreError."""
        with self.translated_errors():
            return self._conn.execute(sql, values).fetchall()

    def meta(self, name: str) -> Any:
        """Return a value from the table ``meta``; None if the table does not have it."""
        row = self._conn.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        return row[0] if row else None

    def set_meta(self, name: str, value: object) -> None:
        """Store a value in the table ``meta``, in the caller's transaction."""
        self._conn.execute(
            "INSERT INTO meta (name, value) VALUES (?, ?) ON CONFLICT DO UPDATE SET value = excluded.value",
            (name, value),
        )

    @property
    def pages(self) -> int:
        """The size of the database in pages, including pages that are only in the WAL."""
        return int(self._conn.execute("PRAGMA page_count").fetchone()[0])

    @property
    def free_pages(self) -> int:
        """The number of unused pages inside the database."""
        return int(self._conn.execute("PRAGMA freelist_count").fetchone()[0])

    def vacuum(self, pages: int) -> None:
        """Return up to ``pages`` unused pages to the disk."""
        # The pragma frees one page per step and returns no columns. ``execute`` would run only one step.
        self._conn.executescript(f"PRAGMA incremental_vacuum({pages})")

    def flush_wal(self) -> None:
        """Copy the whole WAL into the database file and truncate it."""
        self._conn.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def release_memory(self) -> None:
        """Free SQLite's page cache, so that the next reads come from the disk."""
        self._conn.execute("PRAGMA shrink_memory")

    def close(self) -> None:
        """Copy the WAL into the database file and close it."""
        with contextlib.suppress(sqlite3.Error):
            self.flush_wal()
        self._conn.close()


def check_regular_files(path: Path) -> None:
    """Check that the database and the files beside it are regular files, because opening a pipe would never return.

    Raises:
        StoreError: one of them is not a regular file.
    """
    for end in ("", "-wal", "-journal", ".salvage", ".suspect"):
        file = path.with_name(path.name + end)
        with contextlib.suppress(FileNotFoundError):
            if not stat.S_ISREG(file.stat().st_mode):
                raise StoreError("this is not a regular file", where=str(file), hint="Remove this file")


def connect(path: Path) -> sqlite3.Connection:
    """Open or create the database and check every setting. Raises sqlite3.Error or a StoreError."""
    fresh = not path.exists() or path.stat().st_size == 0
    if fresh:  # the file is new: create it here, so that its mode does not depend on the umask
        with contextlib.suppress(FileNotFoundError):
            path.with_name(path.name + "-wal").unlink()  # a WAL without a database is left over from a removed database
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, MODE))
    # an earlier version created the file, with a mode that lets other users read it
    elif (found := path.stat()).st_mode & 0o077 and found.st_uid == os.geteuid():
        for name in (path, path.with_name(path.name + "-wal")):
            with contextlib.suppress(FileNotFoundError):
                name.chmod(MODE)
    conn = sqlite3.connect(path, isolation_level=None, cached_statements=64, check_same_thread=True)
    try:
        _configure(conn, path)
    except BaseException:
        conn.close()
        raise
    return conn


def _configure(conn: sqlite3.Connection, path: Path) -> None:
    conn.execute(f"PRAGMA busy_timeout = {BUSY_MS}")
    # Only one process uses the file. This is set before the first read, so that SQLite needs no shared-memory file,
    # which takes disk space.
    conn.execute("PRAGMA locking_mode = EXCLUSIVE")
    version = int(conn.execute("PRAGMA user_version").fetchone()[0])
    major = version // schema.MAJOR_STEP
    if major > schema.MAJOR:
        raise StoreNewer(
            f"the database was written by a newer major version (schema {major}.{version % schema.MAJOR_STEP}), "
            f"but this version supports only schemas up to {schema.MAJOR}.{len(schema.STEPS)}",
            where=str(path),
            hint="Install the newer version again. To downgrade for good, let the newer version deliver all packs, "
            "stop it, and give the older version a new state_dir. Never restore an older copy of the database: that "
            "would fork the streams",
        )
    # the order matters: page size and auto_vacuum have no effect after the first table is created or WAL is set
    conn.execute(f"PRAGMA page_size = {PAGE_BYTES}")
    conn.execute("PRAGMA auto_vacuum = INCREMENTAL")
    conn.execute("PRAGMA journal_mode = WAL")
    conn.execute("PRAGMA synchronous = FULL")
    conn.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
    conn.execute(f"PRAGMA journal_size_limit = {WAL_LIMIT_BYTES}")
    conn.execute("PRAGMA cache_size = -512")
    conn.execute("PRAGMA temp_store = MEMORY")
    # with Debian's default, SQLite zeroes deleted rows, which wears the flash
    conn.execute("PRAGMA secure_delete = OFF")
    conn.execute("PRAGMA trusted_schema = OFF")
    conn.execute("PRAGMA cell_size_check = ON")
    if version == 0 and not conn.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
        schema.create(conn)
    elif version < schema.VERSION:
        schema.upgrade(conn)
    if missing := schema.missing_columns(conn):
        raise damage_error(f"missing in the tables: {missing}")
    for pragma, wanted in (
        ("journal_mode", "wal"),
        ("synchronous", 2),
        ("auto_vacuum", 2),
        ("locking_mode", "exclusive"),
    ):
        found = conn.execute(f"PRAGMA {pragma}").fetchone()[0]
        if found != wanted:
            raise StoreError(
                f"SQLite uses {pragma} = {found}, but {wanted} is needed for durable commits",
                where=str(path),
                hint="Is the state directory on a network or overlay file system? Put it on a local disk",
            )
    schema.add_triggers(conn)
    conn.execute("BEGIN IMMEDIATE")  # take the lock now, so that a second agent fails here and not at its first commit
    conn.execute(
        "INSERT INTO meta (name, value) VALUES ('opened', datetime()) ON CONFLICT DO UPDATE SET value = excluded.value"
    )
    conn.execute("COMMIT")


def open_or_quarantine(
    path: Path, damage: str = "", rescue: bool = True
) -> tuple[sqlite3.Connection, Quarantine | None]:
    """Open the database. If it is damaged, it is set aside under a dated name, and a new one is created.

    Before that, opening is tried again for some seconds, in case only the disk has failed.

    Args:
        damage: damage that is already known; "": none.
        rescue: False: a damaged database stays where it is.

    Raises:
        StoreDamaged: the database is damaged and ``rescue`` is False.
        StoreError: the database cannot be opened for another reason.
    """
    if not rescue and salvage_file(path).exists():
        raise unchanged_damage(path, "the salvage of a damaged database was interrupted")
    if aside := _interrupted_salvage(path):
        return connect(path), Quarantine(str(aside), "found at an earlier start")
    retries = RetryPolicy(path)
    # after only one report of damage, a large file is not checked here: ``StoreCheck`` does this while the agent runs
    if suspicion_count(path) > 1 and not is_small(path):
        damage = damage or "reported damaged while in use for the second time, and too large to be checked at a start"
    while not damage:
        try:
            return _open(path), None
        except (sqlite3.Error, UnicodeDecodeError) as error:
            # SQLite's message about a damaged table may contain bytes that are not UTF-8
            if isinstance(error, sqlite3.Error) and not is_damage(error):
                raise explain(error, str(path)) from error
            if not retries.should_retry():
                damage = str(error)
    if not rescue:
        raise unchanged_damage(path, damage)
    aside = _set_aside(path)
    try:
        return connect(path), Quarantine(str(aside), damage)
    except sqlite3.Error as error:
        raise explain(error, str(path)) from error


def unchanged_damage(path: Path, why: str) -> StoreDamaged:
    """Return the error for tools that only read.

    Only the agent sets a database aside and states losses in its streams.
    """
    hint = "Nothing was changed. Start the agent: it sets the file aside and salvages what can be read"
    return StoreDamaged(f"the database is damaged ({why})", where=str(path), hint=hint)


def _open(path: Path) -> sqlite3.Connection:
    conn = connect(path)
    try:
        _probe(conn, path)
    except BaseException:
        conn.close()
        raise
    return conn


def salvage_file(path: Path) -> Path:
    """Return the path of the file that names the damaged database. It exists until the salvage is committed."""
    return path.with_name(path.name + ".salvage")


def _interrupted_salvage(path: Path) -> Path | None:
    """Return the path of a damaged database whose salvage was interrupted; None if there is none.

    Removes the unfinished new database.
    """
    marker = salvage_file(path)
    if not marker.exists():
        return None
    aside = path.with_name(marker.read_text().strip() or "none")
    if not aside.exists():  # the database was not renamed yet, so no data was lost
        marker.unlink()
        return None
    wal, old_wal = path.with_name(path.name + "-wal"), aside.with_name(aside.name + "-wal")
    if not path.exists() and wal.exists() and not old_wal.exists():
        wal.rename(old_wal)  # the interruption came between the two renames, so this is the WAL of the damaged database
        sync_directory(path.parent)
    for name in (wal, path):  # the WAL first: a WAL without a database would be taken for that of the damaged one
        name.unlink(missing_ok=True)
    return aside


def finish_salvage(path: Path) -> None:
    """Note that the salvage is committed: remove the file that ``salvage_file`` names."""
    salvage_file(path).unlink(missing_ok=True)
    sync_directory(path.parent)


def _probe(conn: sqlite3.Connection, path: Path) -> None:
    """Read the data that every start needs, so that damage in it shows now.

    If damage was reported before, check a small database as a whole. Raises sqlite3.DatabaseError on damage.
    """
    if suspicion_count(path) and is_small(path):
        (found,) = conn.execute("PRAGMA integrity_check(1)").fetchone()
        if found != "ok":
            raise damage_error(found)
        clear_suspicion(path)
    conn.execute("SELECT count(*), sum(length(hash)) FROM streams").fetchone()
    conn.execute("SELECT length(body) FROM packs ORDER BY id DESC LIMIT 1").fetchone()
    conn.execute("SELECT pack FROM outbox LIMIT 1").fetchone()


def quarantine_name(path: Path) -> Path:
    """Return an unused file name for a damaged file. It contains the current time."""
    aside = path.with_name(f"{path.name}.damaged-{datetime.now(UTC):%Y%m%dT%H%M%SZ}")
    free, n = aside, 1
    while free.exists():
        n += 1
        free = aside.with_name(f"{aside.name}-{n}")
    return free


def newest_damaged(path: Path) -> Path | None:
    """Return the newest file that ``quarantine_name`` named; None if there is none."""
    named = re.compile(re.escape(path.name) + r"\.damaged-\d{8}T\d{6}Z(-\d+)?")  # not its -wal and -shm
    return max((file for file in path.parent.glob("*.damaged-*") if named.fullmatch(file.name)), default=None)


def _set_aside(path: Path) -> Path:
    aside = quarantine_name(path)
    with salvage_file(path).open("w") as marker:
        marker.write(aside.name)
        marker.flush()
        os.fsync(marker.fileno())
    sync_directory(path.parent)
    path.rename(aside)
    clear_suspicion(path)
    for suffix in ("-wal", "-shm"):  # the WAL must stay with the database, because it may hold the newest commits
        with contextlib.suppress(FileNotFoundError):
            path.with_name(path.name + suffix).rename(aside.with_name(aside.name + suffix))
    sync_directory(path.parent)
    return aside


class DiskReserve:
    """A file that reserves disk space.

    It is removed when the disk is full, because even DELETE needs space in the WAL.
    """

    def __init__(self, path: Path, size_bytes: int) -> None:
        self._path, self._size = path, size_bytes

    @property
    def held_bytes(self) -> int:
        """The current size of the file."""
        try:
            return self._path.lstat().st_size
        except FileNotFoundError:
            return 0

    def take(self, spare_bytes: int) -> bool:
        """Reserve the space if ``spare_bytes`` then stay free on the disk. Returns True if it is reserved."""
        if self.held_bytes == self._size:
            return True
        if free_bytes(self._path.parent) < self._size + spare_bytes:
            return False
        try:
            self.drop()
            fd = os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_WRONLY, MODE)
            try:
                os.posix_fallocate(fd, 0, self._size)
            finally:
                os.close(fd)
        except OSError:
            self.drop()
            return False
        return True

    def drop(self) -> None:
        """Return the space to the disk."""
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()


def free_bytes(directory: Path) -> int:
    """Return how many bytes an unprivileged process can still write in a directory."""
    stat = os.statvfs(directory)
    return stat.f_bavail * stat.f_frsize


def file_bytes(path: Path) -> int:
    """Return the size of a file; 0 if it does not exist."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def build_warnings(options: Collection[str] | None = None, version: tuple[int, ...] | None = None) -> list[str]:
    """Return the reasons why this build of SQLite may not be reliable; usually none. The arguments are for tests."""
    if options is None:
        with contextlib.closing(sqlite3.connect(":memory:")) as conn:
            options = {row[0] for row in conn.execute("PRAGMA compile_options")}
    version = version or sqlite3.sqlite_version_info
    found = []
    if version < OLDEST_SQLITE:
        text, oldest = (".".join(map(str, v)) for v in (version, OLDEST_SQLITE))
        found.append(f"SQLite {text} is older than {oldest}, the oldest version that meterhouse is tested with")
    for option, what in (
        ("THREADSAFE=0", "it does not support threads"),
        ("NO_SYNC", "it never waits for the disk: a power cut can damage the database"),
        ("OMIT_WAL", "it has no write-ahead log"),
    ):
        if option in options:
            found.append(f"this SQLite was built with {option}: {what}")
    return found
