"""The database file: opened with the promises asserted, set aside when damaged, with room kept to clean up."""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import stat
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from agent.store import schema
from agent.store.damage import Tries, acquit, small, strikes
from agent.store.errors import StoreDamaged, StoreError, StoreNewer, explain, is_damage
from agent.store.heads import HeadRecord

log = logging.getLogger("meterhouse.store")
PAGE_BYTES = 4096  # small: a gateway commits a few kilobytes at a time, and flash wears by pages
CHECKPOINT_PAGES = 64  # the WAL counts against what a reading may take on the disk
WAL_LIMIT_BYTES = 4 * 1024 * 1024  # what the WAL file is cut back to after something large
BUSY_MS = 2_000
MODE = 0o600  # nobody else opens it: whoever may read it can lock it
SQLITE_FLOOR = (3, 40, 1)  # of the oldest system that the tests run on


@dataclass(frozen=True, slots=True)
class Salvaged:
    """A head read from a damaged database."""

    stream: str
    boot: int
    seq: int
    hash: bytes
    to_ms: int
    ring_id: int
    ring_pos: int


@dataclass(frozen=True, slots=True)
class Quarantine:
    """A damaged database was found at the start and set aside."""

    path: str  # where it is now
    reason: str
    heads: tuple[Salvaged, ...]


def check_plain(path: Path) -> None:
    """The database and what is opened with it are files: a pipe in the place of one would never open.

    Raises:
        StoreError: one of them is something else.
    """
    for end in ("", "-wal", "-journal", ".salvage", ".suspect"):
        file = path.with_name(path.name + end)
        with contextlib.suppress(FileNotFoundError):
            if not stat.S_ISREG(file.stat().st_mode):
                raise StoreError("is not a file", where=str(file), hint="Who put it there? Remove it")


def connect(path: Path) -> sqlite3.Connection:
    """Open or make the database, every setting checked. Raises sqlite3.Error or a StoreError."""
    fresh = not path.exists() or path.stat().st_size == 0
    if fresh:  # made here, so that its mode does not depend on the umask of whoever starts us
        with contextlib.suppress(FileNotFoundError):
            path.with_name(path.name + "-wal").unlink()  # belongs to a file that is gone
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, MODE))
    elif (found := path.stat()).st_mode & 0o077 and found.st_uid == os.geteuid():  # made by an earlier version
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
    # one process. Before the first look into the file: no shared-memory file to find room for, or to lose
    conn.execute("PRAGMA locking_mode = EXCLUSIVE")
    version = int(conn.execute("PRAGMA user_version").fetchone()[0])
    major = version // schema.MAJOR_STEP
    if major > schema.MAJOR:
        raise StoreNewer(
            f"the database was written by a newer major version (schema {major}.{version % schema.MAJOR_STEP}), "
            f"this one knows up to {schema.MAJOR}.{len(schema.STEPS)}",
            where=str(path),
            hint="Install that version again. To go back for good, let it deliver all packs, stop it, and give this "
            "one a new state_dir. Never put an older copy of the database in its place: it would fork the streams",
        )
    # order matters: page size and auto_vacuum only take effect before the first table and before WAL
    conn.execute(f"PRAGMA page_size = {PAGE_BYTES}")
    conn.execute("PRAGMA auto_vacuum = INCREMENTAL")
    conn.execute("PRAGMA journal_mode = WAL")
    conn.execute("PRAGMA synchronous = FULL")
    conn.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
    conn.execute(f"PRAGMA journal_size_limit = {WAL_LIMIT_BYTES}")
    conn.execute("PRAGMA cache_size = -512")
    conn.execute("PRAGMA temp_store = MEMORY")
    conn.execute("PRAGMA secure_delete = OFF")  # Debian's default writes zeros over what is deleted: wear, and WAL
    conn.execute("PRAGMA trusted_schema = OFF")
    conn.execute("PRAGMA cell_size_check = ON")
    if version == 0 and not conn.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
        schema.create(conn)
    elif version < schema.VERSION:
        schema.upgrade(conn)
    if missing := schema.lacks(conn):
        raise _damage(f"the tables lack {missing}")
    for pragma, wanted in (
        ("journal_mode", "wal"),
        ("synchronous", 2),
        ("auto_vacuum", 2),
        ("locking_mode", "exclusive"),
    ):
        found = conn.execute(f"PRAGMA {pragma}").fetchone()[0]
        if found != wanted:
            raise StoreError(
                f"SQLite gives {pragma} = {found}, but {wanted} is needed to keep what is promised",
                where=str(path),
                hint="Is the state directory on a network or overlay file system? Put it on a local disk",
            )
    conn.execute("BEGIN IMMEDIATE")  # take the lock now: a second agent must fail here and not at its first commit
    conn.execute(
        "INSERT INTO meta (name, value) VALUES ('opened', datetime()) ON CONFLICT DO UPDATE SET value = excluded.value"
    )
    conn.execute("COMMIT")


def open_or_quarantine(
    path: Path, damage: str = "", rescue: bool = True
) -> tuple[sqlite3.Connection, Quarantine | None]:
    """Open the database; a damaged one is set aside under a dated name and a new one made with its heads.

    Damage that may be the disk's alone is looked at again for some seconds first.

    Args:
        damage: what is known to be wrong with it already.
        rescue: False: a damaged one stays where it is.

    Raises:
        StoreDamaged: it is to stay where it is.
        StoreError: it cannot be opened for another reason.
    """
    if not rescue and salvage_file(path).exists():
        raise left_alone(path, "the rescue of a damaged one did not come to its end")
    if aside := _unfinished(path):
        return connect(path), Quarantine(str(aside), "found at an earlier start", tuple(_salvage(aside)))
    tries = Tries(path)
    if strikes(path) > 1 and not small(path):  # the first time a look at all of it was to come: ``Inspection``
        damage = damage or "it was called damaged while in use, again, and is too large to be checked at a start"
    while not damage:
        try:
            return _open(path), None
        except sqlite3.Error as error:
            if not is_damage(error):
                raise explain(error, str(path)) from error
            if not tries.another():
                damage = str(error)
    if not rescue:
        raise left_alone(path, damage)
    aside = _set_aside(path)
    heads = tuple(_salvage(aside))
    try:
        return connect(path), Quarantine(str(aside), damage, heads)
    except sqlite3.Error as error:
        raise explain(error, str(path)) from error


def left_alone(path: Path, why: str) -> StoreDamaged:
    """For who only looks: the agent is the one that sets a database aside, and says in its streams what was lost."""
    hint = "Nothing was changed. Start the agent: it sets the file aside and takes over what can be read of it"
    return StoreDamaged(f"the database is damaged ({why})", where=str(path), hint=hint)


def _open(path: Path) -> sqlite3.Connection:
    conn = connect(path)
    try:
        _probe(conn, path)
    except BaseException:
        conn.close()
        raise
    return conn


def stale_wal(path: Path, record: HeadRecord, rescue: bool = True) -> bool:
    """Set a WAL aside with which the database is less than it is alone. True if there was one.

    All of a WAL may have come into the database already, right before the end. If it is damaged then, SQLite reads
    older pages from what is left of it over the newer ones of the file. To be called before the database is opened.
    """
    wal = path.with_name(path.name + "-wal")
    if not record.found or not file_bytes(path) or not file_bytes(wal) or not small(path):
        return False
    # where it cannot be read both ways, nothing is known: the open that follows will say what is wrong
    if _reaches(path, "mode=ro", record) is not False or not _reaches(path, "mode=ro&immutable=1", record, sound=True):
        return False
    if not rescue:
        raise left_alone(path, f"{wal.name} is older than it")
    aside, n = path.with_name(f"{wal.name}.damaged-{_stamp()}"), 1
    while aside.exists():
        n += 1
        aside = aside.with_name(f"{wal.name}.damaged-{_stamp()}-{n}")
    wal.rename(aside)
    sync_directory(path.parent)
    log.warning("%s is damaged, and all of it is in the database already: set aside as %s", wal.name, aside.name)
    return True


def _reaches(path: Path, how: str, record: HeadRecord, sound: bool = False) -> bool | None:
    """Read so, does the database hold all heads and packs of the record (and is it ``sound``)? None: not readable."""
    try:
        conn = sqlite3.connect(f"file:{path}?{how}", timeout=0, uri=True, isolation_level=None)
        try:
            heads = {name: (seq, digest) for name, seq, digest in conn.execute("SELECT name, seq, hash FROM streams")}
            last = conn.execute("SELECT max(id) FROM packs").fetchone()[0] or 0
            for name, kept in record.found.items():
                seq, digest = heads.get(name, (0, b""))
                if seq < kept.seq or (seq == kept.seq and digest != kept.hash) or last < kept.pack_id:
                    return False
            return not sound or conn.execute("PRAGMA integrity_check(1)").fetchone() == ("ok",)
        finally:
            conn.close()
    except sqlite3.Error:
        return None
    finally:
        with contextlib.suppress(OSError):  # what reading a WAL needs beside it, and opening for writing does not
            path.with_name(path.name + "-shm").unlink()


def salvage_file(path: Path) -> Path:
    """Names the file that was set aside, until what can be read of it is in the new database."""
    return path.with_name(path.name + ".salvage")


def _unfinished(path: Path) -> Path | None:
    """A damaged database whose rescue a start did not bring to its end; what that start made of it is dropped."""
    marker = salvage_file(path)
    if not marker.exists():
        return None
    aside = path.with_name(marker.read_text().strip() or "none")
    if not aside.exists():  # it still lies in its place
        marker.unlink()
        return None
    for name in (path, path.with_name(path.name + "-wal")):
        name.unlink(missing_ok=True)
    return aside


def salvaged(path: Path) -> None:
    """The rescue is committed."""
    salvage_file(path).unlink(missing_ok=True)
    sync_directory(path.parent)


def _probe(conn: sqlite3.Connection, path: Path) -> None:
    """Touch what every start needs, so that damage there shows now; look at everything only where there is a suspicion.

    Raises sqlite3.DatabaseError on damage.
    """
    if strikes(path) and small(path):
        (found,) = conn.execute("PRAGMA integrity_check(1)").fetchone()
        if found != "ok":
            raise _damage(found)
        acquit(path)
    conn.execute("SELECT count(*), sum(length(hash)) FROM streams").fetchone()
    conn.execute("SELECT length(body) FROM packs ORDER BY id DESC LIMIT 1").fetchone()
    conn.execute("SELECT pack FROM outbox LIMIT 1").fetchone()


def _damage(found: str) -> sqlite3.DatabaseError:
    error = sqlite3.DatabaseError(found)
    error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
    return error


def _stamp() -> str:
    return datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")


def _set_aside(path: Path) -> Path:
    stamp = _stamp()
    aside, n = path.with_name(f"{path.name}.damaged-{stamp}"), 1
    while aside.exists():
        n += 1
        aside = path.with_name(f"{path.name}.damaged-{stamp}-{n}")
    with salvage_file(path).open("w") as marker:
        marker.write(aside.name)
        marker.flush()
        os.fsync(marker.fileno())
    sync_directory(path.parent)
    path.rename(aside)
    acquit(path)
    for suffix in ("-wal", "-shm"):  # the WAL goes with its file: it may hold the newest commits
        with contextlib.suppress(FileNotFoundError):
            path.with_name(path.name + suffix).rename(aside.with_name(aside.name + suffix))
    sync_directory(path.parent)
    return aside


def _salvage(aside: Path) -> Iterator[Salvaged]:
    """Heads that can still be read, row by row: one bad page must not cost the others."""
    columns = "s.name, b.boot, s.seq, s.hash, s.to_ms, s.ring_id, s.ring_pos"
    with contextlib.suppress(sqlite3.Error):
        conn = sqlite3.connect(f"file:{aside}?mode=ro", uri=True, isolation_level=None)
        try:
            rows = conn.execute(f"SELECT {columns} FROM streams s JOIN boots b ON b.id = s.boot")
            while (row := rows.fetchone()) is not None:
                name, boot, seq, digest, to_ms, ring_id, ring_pos = row
                if isinstance(name, str) and isinstance(digest, bytes) and len(digest) == 32 and seq > 0:
                    yield Salvaged(name, boot, seq, digest, to_ms, ring_id, ring_pos)
        finally:
            conn.close()


def sync_directory(directory: Path) -> None:
    """Make names in a directory durable."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


class Ballast:
    """A file that holds disk space, to be let go when the disk is full: even DELETE needs room in the WAL."""

    def __init__(self, path: Path, size_bytes: int) -> None:
        self._path, self._size = path, size_bytes

    @property
    def held_bytes(self) -> int:
        """What the file takes at the moment."""
        try:
            return self._path.lstat().st_size
        except FileNotFoundError:
            return 0

    def take(self, spare_bytes: int) -> bool:
        """Hold the space again if that leaves ``spare_bytes`` free. Returns whether it is held."""
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
        """Give the space back to the disk."""
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()


def free_bytes(directory: Path) -> int:
    """What a process without privileges may still write there."""
    stat = os.statvfs(directory)
    return stat.f_bavail * stat.f_frsize


def file_bytes(path: Path) -> int:
    """Size of a file, 0 if there is none."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def mount_warnings(directory: Path, mountinfo: str | None = None) -> list[str]:
    """Why the file system under ``directory`` may not keep what synchronous FULL promises; usually nothing.

    Args:
        mountinfo: text of /proc/self/mountinfo, for tests.
    """
    if mountinfo is None:
        try:
            mountinfo = Path("/proc/self/mountinfo").read_text()
        except OSError:
            return []
    target, best = str(directory.resolve()), ("", "", set[str]())
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        fields, tail = left.split(), right.split()
        if len(fields) < 6 or len(tail) < 3:
            continue
        mount = fields[4].replace("\\040", " ")
        inside = target == mount or target.startswith(mount.rstrip("/") + "/")
        if inside and len(mount) >= len(best[0]):
            best = (mount, tail[0], set(fields[5].split(",")) | set(tail[2].split(",")))
    mount, kind, options = best
    found = []
    if bad := sorted(options & {"data=writeback", "nobarrier", "barrier=0", "fsync_mode=nobarrier"}):
        found.append(f"{mount} is mounted with {', '.join(bad)}: a power cut can damage the database")
    if kind in {"tmpfs", "ramfs"}:
        found.append(f"{mount} is a {kind}: everything is lost when the power goes")
    if kind in {"nfs", "nfs4", "cifs", "smb3", "9p", "virtiofs", "ceph", "glusterfs", "fuse.sshfs"}:
        found.append(f"{mount} is a network file system ({kind}): locks and syncs cannot be relied on")
    if kind in {"overlay", "aufs"}:
        found.append(f"{mount} is an overlay ({kind}): what lies there may be gone after the next start of the machine")
    if kind in {"vfat", "exfat", "msdos"}:
        found.append(f"{mount} is {kind}, which keeps no journal: a power cut can damage the database")
    return found


def build_warnings(options: Collection[str] | None = None, version: tuple[int, ...] | None = None) -> list[str]:
    """Why this SQLite may not keep what it is asked for; usually nothing. The arguments are for tests."""
    if options is None:
        with contextlib.closing(sqlite3.connect(":memory:")) as conn:
            options = {row[0] for row in conn.execute("PRAGMA compile_options")}
    version = version or sqlite3.sqlite_version_info
    found = []
    if version < SQLITE_FLOOR:
        text, floor = (".".join(map(str, v)) for v in (version, SQLITE_FLOOR))
        found.append(f"SQLite {text} is older than {floor}, the oldest that meterhouse is tested with")
    for option, what in (
        ("THREADSAFE=0", "it is not made for programs with threads"),
        ("NO_SYNC", "it never waits for the disk: a power cut can damage the database"),
        ("OMIT_WAL", "it has no write-ahead log"),
    ):
        if option in options:
            found.append(f"this SQLite was built with {option}: {what}")
    return found
