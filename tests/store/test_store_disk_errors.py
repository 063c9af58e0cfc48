"""SQLite also reports "malformed" for a failed disk: that is temporary, and no history is set aside."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from agent.store import Store, StoreBusy, StoreDamaged
from agent.store import errors as damaging
from agent.store.errors import DamageVerifier, read_error, suspicion_file
from agent.store.sqlite import PAGE_BYTES
from tests.kits.faults.shim import Shim
from tests.kits.packs import Maker

pytestmark = pytest.mark.process

CAP = 64 << 20
HERE = Path(__file__).parent
PROGRAM = """
import sys
sys.path[:0] = [{root!r}, {here!r}]
from agent.store import Store, StoreError, errors
errors.PAUSES_S = (0.05, 0.05, 0.05, 0.05)
store = None
for line in sys.stdin:
    word = line.strip()
    try:
        if word == "open":
            store = Store.open({path!r}, 64 << 20, destinations=["platform"])
            print("set aside" if store.quarantine else "open", flush=True)
        elif word == "read":
            store.db.release_memory()
            found = store.call(lambda store: store.packs.pending("platform", limit=1000, max_bytes=1 << 30))
            print("ok" if len(found) == 301 else "nothing", flush=True)
        elif word == "impatient":
            errors.UNREADABLE_S = 0.0
            print("ok", flush=True)
    except StoreError as error:
        print(type(error).__name__, str(error), flush=True)
"""


class Agent:
    """A process that has the store open, on a disk that fails on demand."""

    def __init__(self, path: Path, shim: Shim) -> None:
        root = str(HERE.parent.parent)
        program = PROGRAM.format(root=root, here=str(HERE), path=str(path))
        self.process = subprocess.Popen(
            [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env=os.environ | shim.env,
        )  # fmt: skip

    def ask(self, word: str) -> str:
        stdin, stdout = self.process.stdin, self.process.stdout
        assert stdin and stdout
        stdin.write(word + "\n")
        stdin.flush()
        return stdout.readline().strip()

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a database of 301 packs."""
    path, make = tmp_path_factory.mktemp("full") / "store.db", Maker()
    store = Store.open(path, CAP, destinations=["platform"])
    store.packs.commit([make(birth=True)])
    for _ in range(60):
        store.packs.commit([make() for _ in range(5)])
    store.close()
    return path.parent


@pytest.fixture
def path(full: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    shutil.copytree(full, tmp_path, dirs_exist_ok=True)
    return tmp_path / "store.db"


@pytest.fixture
def shim(tmp_path: Path) -> Iterator[Shim]:
    made = Shim(tmp_path)
    yield made
    made.close()


@pytest.fixture
def agent(path: Path, shim: Shim) -> Iterator[Agent]:
    made = Agent(path, shim)
    yield made
    made.end()


def aside(path: Path) -> list[Path]:
    return list(path.parent.glob("*.damaged-*"))


def test_a_disk_that_cannot_be_read_for_a_while_is_not_damage(path: Path, shim: Shim, agent: Agent) -> None:
    assert agent.ask("open") == "open" and agent.ask("read") == "ok"
    shim.set("read fails")
    said = agent.ask("read")
    assert said.startswith("StoreBusy") and "the disk cannot be read (Input/output error near byte 0" in said
    shim.set("well")
    assert agent.ask("read") == "ok"
    assert not suspicion_file(path).exists()


def test_a_disk_that_fails_once_is_not_damage(path: Path, shim: Shim, agent: Agent) -> None:
    """The disk works again before the file is read: then the file is checked."""
    assert agent.ask("open") == "open"
    shim.set("read fails", times=1)
    said = agent.ask("read")
    assert said.startswith("StoreBusy") and "temporary disk error" in said
    assert agent.ask("read") == "ok" and not suspicion_file(path).exists()


def test_a_bad_sector_is_damage_in_the_end(path: Path, shim: Shim, agent: Agent) -> None:
    assert agent.ask("open") == "open"
    shim.set("read fails")
    assert agent.ask("read").startswith("StoreBusy")
    agent.ask("impatient")
    assert agent.ask("read").startswith("StoreDamaged")
    assert suspicion_file(path).exists()


@pytest.mark.parametrize("times", [1, 2, 3, 4, 5])
def test_a_start_waits_for_a_disk(path: Path, shim: Shim, agent: Agent, times: int) -> None:
    shim.set("read fails", times=times)
    assert agent.ask("open") == "open" and agent.ask("read") == "ok"
    assert not aside(path) and not suspicion_file(path).exists()


def test_a_start_sets_aside_what_stays_unreadable(path: Path, shim: Shim, agent: Agent) -> None:
    """If the disk returns nothing at all, the new file cannot be read either; the old one is kept."""
    before = path.read_bytes()
    shim.set("read fails")
    assert agent.ask("open").startswith("Store")
    shim.set("well")
    (left,) = [file for file in aside(path) if not file.name.endswith(("-wal", "-shm"))]
    assert left.read_bytes() == before
    again = Store.open(path, CAP, destinations=["platform"])
    assert again.quarantine is not None and len(again.packs.pending("platform", limit=1000, max_bytes=1 << 30)) == 301
    again.close()


def test_a_damaged_database_is_reported_although_the_disk_works(path: Path) -> None:
    dice = random.Random(1)
    with path.open("r+b") as file:
        for page in range(20, path.stat().st_size // PAGE_BYTES, 3):
            file.seek(page * PAGE_BYTES)
            file.write(dice.randbytes(PAGE_BYTES))
    with closing(sqlite3.connect(path)) as conn:
        verifier = DamageVerifier(conn, path)
        verifier.in_use = True
        assert read_error(path) == "" and type(verifier.classify(malformed())) is StoreDamaged


def malformed() -> sqlite3.DatabaseError:
    """The error that SQLite raises for damage, and for other failures."""
    error = sqlite3.DatabaseError("database disk image is malformed")
    error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
    return error


def test_repeated_reports_of_damage_are_accepted(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A check that finds nothing must not keep an agent running that cannot work."""
    monkeypatch.setattr(damaging, "MAX_CLEARED", 2)
    conn = sqlite3.connect(path)
    verifier = DamageVerifier(conn, path)
    verifier.in_use = True
    assert [type(verifier.classify(malformed())) for _ in range(4)] == [
        StoreBusy,
        StoreBusy,
        StoreDamaged,
        StoreDamaged,
    ]
    assert suspicion_file(path).stat().st_size == 2
    conn.close()


READS: dict[str, Callable[[Store], object]] = {
    "interval_states": lambda store: store.intervals.state("park7/gw01/inv1"),
    "interval_pages": lambda store: store.intervals.span(),
    "interval_changes": lambda store: store.intervals.interval_changes(0),
    "interval_gaps": lambda store: list(store.intervals.gaps.rows(0, 1)),
    "interval_gap_starts": lambda store: store.intervals.gaps.starts(),
}


@pytest.mark.parametrize("table", READS)
def test_damage_found_by_the_intervals_is_reported_by_the_store(path: Path, table: str) -> None:
    """The intervals took the error for their own and stopped; now the service ends, as for any damage."""
    with closing(sqlite3.connect(path)) as conn:
        (page,) = conn.execute("SELECT rootpage FROM sqlite_schema WHERE name = ?", (table,)).fetchone()
    store = Store.open(path, CAP, destinations=["platform"])
    with path.open("r+b") as file:
        file.seek((page - 1) * PAGE_BYTES)
        file.write(b"\xa5" * PAGE_BYTES)
    store.db.release_memory()
    with pytest.raises(StoreDamaged):
        READS[table](store)
    store.close()
