"""A database whose disk is full: nothing is acknowledged, and all of it is stored once there is room."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from tempfile import mkdtemp

import pytest

from receiver.database import connect, create_tables
from receiver.private_postgres import PrivatePostgres
from receiver.store import Store
from receiver.trust import Enrolment, enrol
from receiver.worker import Worker
from tests.kits.fleet_faults import Feed, make

pytestmark = pytest.mark.slow


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """200 MB, of which a new database takes a part."""
    folder = Path(mkdtemp(prefix="mh-full-"))
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200m,mode=755", "none", str(folder)], check=False)
    if mounted.returncode:
        folder.rmdir()
        pytest.skip("a file system cannot be mounted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)
    folder.rmdir()


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_a_full_database_acknowledges_nothing_and_goes_on_by_itself(small_disk: Path) -> None:
    server = PrivatePostgres(small_disk / "pg", ["wal_recycle=off", "max_wal_size=32MB", "min_wal_size=32MB"])
    server.start()
    try:
        create_tables(server.dsn)
        made = [make("whole", number) for number in range(40)]
        now = [0.0]
        with connect(server.dsn) as connection:
            enrol(connection, [Enrolment(b.gateway.name, [b.gateway.signer.kid]) for b in made])
        keys = [(f"meterhouse/v1/{b.gateway.name}/keys", b.keys[0]) for b in made]
        feed = Feed([*keys, *(message for b in made for message in b.sent)])
        worker = Worker(feed, [Store(server.dsn)], lambda: now[0])
        ballast = small_disk / "ballast"
        with ballast.open("wb", buffering=0) as file:
            size = 1 << 20
            while size:  # to the last page
                try:
                    file.write(bytes(size))
                except OSError:
                    size //= 2
        for _ in range(6):
            worker.step(0)
            now[0] += 20.0
        assert worker.totals.failures, "the disk was full"
        refused = feed.acknowledged.copy()
        ballast.unlink()
        server.stop("immediate")  # it may have ended itself: PostgreSQL does where its log cannot be written
        server.start()
        for _ in range(20):
            now[0] += 20.0
            worker.step(0)
        with connect(server.dsn) as connection:
            stored = connection.execute("SELECT count(*) FROM packs").fetchall()[0][0]
        assert stored == 40 * 12 and len(refused) < len(feed.acknowledged) == 40 * 13
        assert not worker.totals.refused
    finally:
        server.stop()
