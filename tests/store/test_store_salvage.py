"""What can be read of a damaged database is copied into the new one; the rest is stated as lost, by range."""

from __future__ import annotations

import random
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from agent.store import Store, salvage
from agent.store.errors import StoreError, suspicion_file
from agent.store.salvage import LeftBehind
from agent.store.sqlite import PAGE_BYTES, file_bytes, open_or_quarantine, salvage_file
from tests.kits.packs import Maker

CAP = 64 << 20
RING = 1 << 63 | 7
DOCUMENT = {"points": [{"n": "ac.power.active"}]}


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Maker]]:
    """A database with three streams of 120 packs, of which the platform has confirmed the first third and a few."""
    path = tmp_path_factory.mktemp("full") / "store.db"
    makers = [Maker(f"park7/gw01/m{n}", pad=200 * n) for n in range(3)]
    store = Store.open(path, CAP, destinations=["platform", "other"])
    store.documents.register_tables(RING, [(0, makers[0].stream, DOCUMENT)])
    confirmed = store.packs.commit([make(birth=True) for make in makers])
    for n in range(119):
        ids = store.packs.commit([make() for make in makers])
        if n < 39:
            confirmed += ids
        if n in (60, 61, 62):
            confirmed.append(ids[1])
    store.packs.commit((), {"platform": confirmed, "other": range(1, 361)})
    store.close()
    return path, makers


def copy_of(full: Path, folder: Path) -> Path:
    shutil.copy(full, folder / full.name)
    suspicion_file(folder / full.name).touch()  # look at everything, as after an error while it was in use
    return folder / full.name


def scribble(path: Path, pages: list[int], rng: random.Random) -> None:
    with path.open("r+b") as file:
        for page in pages:
            file.seek((page - 1) * PAGE_BYTES)
            file.write(rng.randbytes(PAGE_BYTES))


def pages_of(path: Path, *tables: str) -> list[int]:
    conn = sqlite3.connect(path)
    try:
        marks = ",".join("?" * len(tables))
        return [
            n for (n,) in conn.execute(f"SELECT pageno FROM dbstat WHERE name IN ({marks}) ORDER BY pageno", tables)
        ]
    except sqlite3.OperationalError:
        pytest.skip("this SQLite has no dbstat to find pages with (an interpreter whose SQLite was built with it)")
    finally:
        conn.close()


def check(store: Store, makers: list[Maker]) -> tuple[int, int]:
    """Each owed pack is stored as the same bytes, or stated as lost with its hash. Returns how many of each."""
    made = {(make.stream, pack.seq): pack for make in makers for pack in make.made}
    owed = {(m.stream, n) for k, m in enumerate(makers) for n in range(41, 121) if k != 1 or n not in (62, 63, 64)}
    here = {}
    at = 0
    while page := store.packs.pending("platform", at, 50):
        for item in page:
            (name,) = [key for key, pack in made.items() if pack.data == item.data]
            assert name not in here, "once"
            here[name] = item.id
        at = page[-1].id
    notes = store.packs.losses()
    gone = set()
    for note in notes:
        assert note.hash == made[note.stream, note.last].hash and note.reason == "damaged"
        assert note.from_ms <= note.to_ms == made[note.stream, note.last].to_ms
        gone |= {(note.stream, n) for n in range(note.first, note.last + 1)}
    assert not gone & here.keys()
    assert not owed - here.keys() - gone, "neither here nor stated"
    for make in makers:
        ids = [here[key] for key in sorted(here) if key[0] == make.stream]
        assert ids == sorted(ids), "oldest first"
    return len(here), len(gone & owed)


@pytest.mark.parametrize("seed", range(12))
def test_owed_packs_are_salvaged_or_stated_lost(full: tuple[Path, list[Maker]], tmp_path: Path, seed: int) -> None:
    """Promise 3: no durable pack is dropped unconfirmed without a report. # field pain 52 and 57"""
    path, makers = copy_of(full[0], tmp_path), full[1]
    rng = random.Random(seed)
    tables = [("packs",), ("packs", "outbox"), ("outbox",), ("packs_seq", "packs"), ("packs_seq",), ("births", "packs")]
    pages = pages_of(path, *tables[seed % 6])
    scribble(path, rng.sample(pages, min(len(pages), rng.randint(1, 6))), rng)
    store = Store.open(path, CAP, destinations=["platform", "other"])
    assert store.quarantine is not None
    here, gone = check(store, makers)
    assert here + gone >= 237 and store.saved_packs >= here
    assert not store.packs.pending("other") or seed % 6 in (1, 2), "only a torn outbox makes delivered packs owed again"
    assert store.documents.tables(RING)[0].document == DOCUMENT, "the ring of the run before can be sealed"
    for make in makers:
        head = store.packs.heads()[make.stream]
        assert (head.seq, head.hash) == (120, make.made[-1].hash)
    store.close()
    again = Store.open(path, CAP, destinations=["platform", "other"])
    assert again.quarantine is None and check(again, makers) == (here, gone), "and they are durable"
    again.close()


@pytest.mark.parametrize(
    ("damaged", "left"),
    [
        (("packs",), LeftBehind(2, 3)),
        (("declared", "sqlite_autoindex_declared_1"), LeftBehind(None, 3)),
        (("devices",), LeftBehind(2, None)),
    ],
)
def test_declarations_and_facts_that_are_not_copied_are_counted(
    full: tuple[Path, list[Maker]], tmp_path: Path, damaged: tuple[str, ...], left: LeftBehind
) -> None:
    """They were gone without a word. They are not copied, because nothing proves what a bad page left of them."""
    path, makers = copy_of(full[0], tmp_path), full[1]
    store = Store.open(path, CAP, destinations=["platform", "other"])
    assert store.left_behind == LeftBehind(0, 0)
    for n in range(2):
        store.documents.declare(f"{n:016x}", 1, {"name": "declared.certificates"})
    store.documents.keep_facts({make.stream: b"{}" for make in makers})
    store.close()
    suspicion_file(path).touch()
    scribble(path, pages_of(path, *damaged)[-2:], random.Random(1))
    store = Store.open(path, CAP, destinations=["platform", "other"])
    assert store.quarantine and store.left_behind == left
    assert not store.documents.declarations() and not store.documents.devices()
    store.close()


def test_an_interrupted_salvage_is_repeated(
    full: tuple[Path, list[Maker]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Power is lost between quarantine and commit: the next start finds both, and the heads continue."""
    path, makers = copy_of(full[0], tmp_path), full[1]
    scribble(path, pages_of(path, "packs")[-4:], random.Random(1))

    def power_lost(self: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(salvage.Salvage, "run", power_lost)
        Store.open(path, CAP, destinations=["platform"])
    assert salvage_file(path).exists()
    store = Store.open(path, CAP, destinations=["platform"])
    assert store.quarantine is not None and len(list(tmp_path.glob("store.db.damaged-*Z"))) == 1
    check(store, makers)
    store.close()
    assert not salvage_file(path).exists()
    assert Store.open(path, CAP, destinations=["platform"]).quarantine is None


def test_a_salvage_that_was_interrupted_before_its_first_step_leaves_no_trace(tmp_path: Path) -> None:
    """The name of the file was noted, and the file not yet set aside: the database is still the one in use."""
    path = tmp_path / "store.db"
    Store.open(path, CAP, destinations=["platform"]).close()
    salvage_file(path).write_text("store.db.damaged-20261127T000000Z")
    store = Store.open(path, CAP, destinations=["platform"])
    assert store.quarantine is None and not salvage_file(path).exists()
    store.close()


def test_a_kill_between_two_renames_does_not_separate_a_database_from_its_wal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next start deleted the WAL, and the packs in it became losses, although they could be read."""
    path, make = tmp_path / "store.db", Maker()
    live = Store.open(tmp_path / "live.db", CAP, destinations=["platform"])
    live.packs.commit([make(birth=True), *(make() for _ in range(9))])
    for end in ("", "-wal", ".heads"):  # as a killed agent leaves them
        shutil.copy(tmp_path / f"live.db{end}", tmp_path / f"store.db{end}")
    live.close()
    rename = Path.rename

    def killed(self: Path, target: Path) -> Path:
        if self.name.endswith("-wal"):
            raise KeyboardInterrupt
        return rename(self, target)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "rename", killed)
        open_or_quarantine(path, "damaged")
    assert not path.exists() and path.with_name("store.db-wal").exists()
    store = Store.open(path, CAP, destinations=["platform"])
    assert store.quarantine is not None and store.saved_packs == 10 and not store.packs.losses()
    assert [item.data for item in store.packs.pending("platform")] == [pack.data for pack in make.made]
    store.close()


def test_the_wal_of_an_unfinished_database_is_never_that_of_the_damaged_one(
    full: tuple[Path, list[Maker]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is removed before its database, so that no kill between the two leaves it alone."""
    path = copy_of(full[0], tmp_path)
    aside = path.with_name("store.db.damaged-20261127T000000Z")
    path.rename(aside)
    salvage_file(path).write_text(aside.name)
    files = [path, path.with_name("store.db-wal")]
    for file in files:
        file.write_bytes(b"unfinished")
    unlink = Path.unlink

    def killed(self: Path, missing_ok: bool = False) -> None:
        if self in files and not all(file.exists() for file in files):
            raise KeyboardInterrupt
        unlink(self, missing_ok)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "unlink", killed)
        open_or_quarantine(path)
    store = Store.open(path, CAP, destinations=["platform", "other"])
    assert store.quarantine is not None and store.saved_packs
    assert not file_bytes(aside.with_name(f"{aside.name}-wal"))
    check(store, full[1])
    store.close()


def test_what_is_stated_is_stated_once(full: tuple[Path, list[Maker]], tmp_path: Path) -> None:
    """The losses go into the next pack of their stream, like those of the size cap."""
    path, makers = copy_of(full[0], tmp_path), full[1]
    scribble(path, pages_of(path, "packs")[-20:], random.Random(2))
    store = Store.open(path, CAP, destinations=["platform"])
    notes = store.packs.losses()
    assert notes
    for make in makers:
        mine = [note.id for note in notes if note.stream == make.stream]
        head = store.packs.heads()[make.stream]
        copy = Maker(make.stream)
        copy.seq, copy.prev = head.seq, make.prev
        store.packs.commit([copy(birth=True)], {}, mine)
    assert store.packs.losses() == []
    store.close()


@pytest.mark.parametrize("tables", [("destinations",), ("destinations", "outbox"), ("destinations", "births")])
def test_destinations_are_known_from_the_configuration(
    full: tuple[Path, list[Maker]], tmp_path: Path, tables: tuple[str, ...]
) -> None:
    """If the list of destinations was lost, no pack seemed owed, and no loss was stated."""
    path, makers = copy_of(full[0], tmp_path), full[1]
    scribble(path, pages_of(path, *tables), random.Random(1))
    store = Store.open(path, CAP, destinations=["platform", "other"])
    assert store.quarantine is not None
    here, gone = check(store, makers)
    assert here + gone >= 237
    store.close()


def test_a_lost_run_begins_where_the_delivered_pack_before_it_ended(
    full: tuple[Path, list[Maker]], tmp_path: Path
) -> None:
    """The pack before the run is not owed, so it is not copied: it is read from the damaged file."""
    path, makers = copy_of(full[0], tmp_path), full[1]
    with closing(sqlite3.connect(path)) as conn, conn:
        changed = conn.execute(
            "UPDATE packs SET body = x'00' WHERE seq BETWEEN 41 AND 43"
            " AND stream = (SELECT id FROM streams WHERE name = ?)",
            (makers[0].stream,),
        )
        assert changed.rowcount == 3
    scribble(path, pages_of(path, "packs")[-1:], random.Random(3))
    store = Store.open(path, CAP, destinations=["platform", "other"])
    assert store.quarantine is not None
    check(store, makers)
    note = next(note for note in store.packs.losses() if (note.stream, note.first) == (makers[0].stream, 41))
    before, last = makers[0].made[39], makers[0].made[42]
    assert (note.last, note.hash, note.from_ms, note.to_ms) == (43, last.hash, before.to_ms, last.to_ms)
    store.close()


def test_of_a_damaged_file_that_cannot_be_opened_nothing_is_counted_as_left_behind(
    full: tuple[Path, list[Maker]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = copy_of(full[0], tmp_path)
    scribble(path, pages_of(path, "packs")[-4:], random.Random(38))

    def unreadable(path: Path) -> sqlite3.Connection:
        raise sqlite3.OperationalError("unable to open database file")

    monkeypatch.setattr(salvage, "open_damaged", unreadable)
    store = Store.open(path, CAP, destinations=["platform"])

    assert store.quarantine is not None and store.left_behind == LeftBehind(None, None)
    store.close()


def test_a_declaration_is_stored_once(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store.db", CAP, destinations=["platform"])
    store.documents.declare("a" * 16, 1, {"name": "declared.area"})

    with pytest.raises(ValueError, match=f"the declaration {'a' * 16} already exists"):
        store.documents.declare("a" * 16, 2, {"name": "declared.trees"})

    assert store.documents.declarations() == [{"name": "declared.area"}]
    store.close()


def test_a_database_that_was_compacted_without_auto_vacuum_is_refused(tmp_path: Path) -> None:
    """Its file could never shrink again, so the limit of its size could not be kept."""
    path = tmp_path / "store.db"
    Store.open(path, CAP, destinations=["platform"]).close()
    with closing(sqlite3.connect(path, isolation_level=None)) as conn:
        for statement in ("PRAGMA journal_mode = delete", "PRAGMA auto_vacuum = none", "VACUUM"):
            conn.execute(statement)

    with pytest.raises(StoreError, match="SQLite uses auto_vacuum = 0, but 2 is needed"):
        Store.open(path, CAP, destinations=["platform"])
