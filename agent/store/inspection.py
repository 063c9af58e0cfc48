"""Finds rows that were changed in the file, and restores them: from their copies, from the packs, or from the record.

This is done at each start, and reads no body of a confirmed pack, so it is quick. ``PackTable`` checks each pack when
it is read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from agent.store.heads import RecordedHead, head_of
from agent.store.rows import PackRow, decode_copy, encode_copy, same_row, stream_crc
from agent.store.schema import COPIED, PACK_OF, TALLY
from agent.store.sqlite import Database
from agent.store.streams import StreamHead, boot_number, signed

MAX_OFFERED = 100_000  # if it is not known which packs a destination waits for, it is offered the newest ones again
LIKELY_MAX = 1 << 53  # a larger sequence or id is damaged; the sums of smaller ones do not overflow
STREAM = "id, name, boot, seq, hash, to_ms, birth, birth_pack, ring_id, ring_pos"
SUMS = (
    f"count(*), coalesce(sum(CASE WHEN seq BETWEEN 0 AND {LIKELY_MAX} THEN seq ELSE -1 END), 0),"
    f" coalesce(sum(CASE WHEN id BETWEEN 0 AND {LIKELY_MAX} THEN id ELSE -1 END), 0)"
)
Read = Callable[[PackRow], StreamHead | None]


def restore_copied_rows(db: Database) -> None:
    """Restore the rows of the tables in ``schema.COPIED`` from their copies, and the copies from the rows."""
    for table, columns in COPIED.items():
        names = ", ".join(columns)
        rows = {row[0]: row for row in _read_raw(db, f"SELECT {names} FROM {table}")}
        copies = {}
        for key, body in _read_raw(db, "SELECT key, body FROM row_copies WHERE tbl = ?", table):
            values = decode_copy(table, key, body)
            if values is None or len(values) != len(columns):
                db.execute("DELETE FROM row_copies WHERE tbl = ? AND key IS ?", (table, key))
                db.note_damage(f"the copy of row {key!r} of the table {table} was changed; it is deleted")
            else:
                copies[key] = values
        for key in [key for key in rows if not (key in copies and same_row(rows[key], copies[key]))]:
            row, twins = rows[key], [other for k, other in rows.items() if k != key and other[1:] == rows[key][1:]]
            if key in copies or twins:
                db.execute(f"DELETE FROM {table} WHERE {columns[0]} IS ?", (key,))
                if key not in copies:
                    db.note_damage(f"row {key!r} of the table {table} is a copy of another row; it is deleted")
                rows.pop(key)
            else:  # nothing contradicts the row
                db.execute(
                    "INSERT OR REPLACE INTO row_copies (tbl, key, body) VALUES (?, ?, ?)",
                    (table, key, encode_copy(table, row)),
                )
        for key, values in copies.items():
            if key not in rows:
                marks = ", ".join("?" * len(values))
                db.execute(f"INSERT OR REPLACE INTO {table} ({names}) VALUES ({marks})", values)
                db.note_damage(f"row {key!r} of the table {table} was missing or changed; it is restored from its copy")


def _read_raw(db: Database, sql: str, *values: object) -> list[tuple[Any, ...]]:
    """Read rows whose texts may have bytes that are not UTF-8."""
    with db.lenient_texts():
        return db.execute(sql, values).fetchall()


def restore_outboxes(db: Database) -> None:
    """Compare each outbox with its tally. Packs that may be missing are offered again, which does no harm."""
    known = [number for (number,) in db.execute("SELECT id FROM destinations")]
    marks = ", ".join("?" * len(known))
    strays = db.execute(f"DELETE FROM outbox WHERE destination NOT IN ({marks})", known).rowcount
    if strays > 0:
        db.note_damage(f"{strays} rows of the outbox had another destination; they are deleted")
    for number in known:
        _restore_outbox(db, number)


def _restore_outbox(db: Database, destination: int) -> None:
    where = f"destination = {destination:d}"
    tally = db.execute(f"SELECT packs, ids FROM outbox WHERE {where} AND pack = {TALLY}").fetchone()
    valid = tally is not None and all(type(value) is int for value in tally)
    found = _outbox_sums(db, where)
    if valid and tally == found:
        return
    db.execute(
        f"DELETE FROM outbox WHERE {where} AND pack IS NOT {TALLY}"
        " AND (packs IS NOT NULL OR NOT EXISTS (SELECT 1 FROM packs p WHERE p.id = pack))"
    )
    packs, ids = _outbox_sums(db, where)
    if valid:
        packs, ids = tally[0] - packs, tally[1] - ids
        missing: tuple[str, tuple[object, ...]] = ("SELECT ?, id FROM packs WHERE id = ?", (destination, ids))
        if packs == 0 and ids:
            missing = (
                f"SELECT destination, pack + ? FROM outbox WHERE {where} AND packs IS NULL"
                " AND pack + ? IN (SELECT id FROM packs)",
                (ids, ids),
            )
        elif packs not in (0, 1, -1):
            missing = (
                "SELECT ?, id FROM packs WHERE id > (SELECT max(id) FROM packs) - ? ORDER BY id",
                (destination, MAX_OFFERED),
            )
        if packs == -1:
            db.execute(f"DELETE FROM outbox WHERE {where} AND pack = ?", (-ids,))
        else:
            db.execute(f"INSERT OR IGNORE INTO outbox (destination, pack) {missing[0]}", missing[1])
    db.execute(f"INSERT OR IGNORE INTO outbox (destination, pack, packs, ids) VALUES ({destination:d}, {TALLY}, 0, 0)")
    db.execute(f"UPDATE outbox SET packs = ?, ids = ? WHERE {where} AND pack = {TALLY}", _outbox_sums(db, where))
    (name,) = db.execute("SELECT name FROM destinations WHERE id = ?", (destination,)).fetchone()
    db.note_damage(f"the outbox of the destination {name} was changed; it is restored, and packs may be sent again")


def _outbox_sums(db: Database, where: str) -> tuple[int, int]:
    """Return the number of packs in an outbox and the sum of their ids. A row that cannot be right counts as -1."""
    packs, ids = db.execute(
        f"SELECT count(*), coalesce(sum(CASE WHEN packs IS NULL AND pack BETWEEN 0 AND {LIKELY_MAX} THEN pack"
        f" ELSE -1 END), 0) FROM outbox WHERE {where} AND pack IS NOT {TALLY}"
    ).fetchone()
    return packs, ids


def restore_streams(db: Database, recorded: Mapping[str, RecordedHead], read: Read) -> None:
    """Restore the rows of ``streams`` that were changed.

    Args:
        recorded: the heads in the head record.
        read: returns the head that a pack makes; None if the row of the pack was changed.
    """
    rows = _read_raw(db, f"SELECT {STREAM}, crc FROM streams")
    bad = [row for row in rows if row[-1] != stream_crc(row[:-1])]
    sound = {row[0]: row[1] for row in rows if row not in bad}
    stored = [number for (number,) in db.execute("SELECT DISTINCT stream FROM packs INDEXED BY packs_seq")]
    heads = {
        number: head
        for number in stored
        if type(number) is int and number not in sound and (head := _newest_head(db, number, read)) is not None
    }
    unread = recorded.keys() - set(sound.values()) - {head.stream for head in heads.values()}
    for row in bad:
        db.execute("DELETE FROM streams WHERE id IS ?", (row[0],))
        if row[0] not in heads and row[1] in unread:  # no pack of the stream is stored
            heads[row[0]] = head_of(recorded[row[1]])
    for number, head in heads.items():
        kept = recorded.get(head.stream)
        _put_stream(db, number, head_of(kept) if kept is not None and kept.seq >= head.seq else head)
    for name in [head.stream for head in heads.values()] or [row[1] for row in bad]:
        db.note_damage(f"the row of the stream {name} was changed or missing; it is restored")


def _newest_head(db: Database, stream: int, read: Read) -> StreamHead | None:
    """Return the head that the newest sound pack of a stream makes; None if there is none."""
    rows = db.execute(f"{PACK_OF} WHERE p.stream = ? ORDER BY p.seq DESC LIMIT 100", (stream,)).fetchall()
    return next((head for row in rows if (head := read(PackRow._make(row))) is not None), None)


def _put_stream(db: Database, number: int, head: StreamHead) -> None:
    db.execute("INSERT INTO boots (boot) VALUES (?) ON CONFLICT DO NOTHING", (boot_number(head.boot),))
    (boot,) = db.execute("SELECT id FROM boots WHERE boot = ?", (boot_number(head.boot),)).fetchone()
    birth_pack, birth = db.execute(
        "SELECT p.id, CAST(b.hash AS BLOB) FROM packs p JOIN births b ON b.pack = p.id"
        " WHERE p.stream = ? AND p.is_birth ORDER BY p.seq DESC LIMIT 1",
        (number,),
    ).fetchone() or (None, None)
    values = (
        number, head.stream, boot, head.seq, head.hash, head.to_ms, birth, birth_pack, signed(head.ring_id),
        signed(head.ring_pos),
    )  # fmt: skip
    db.execute("DELETE FROM streams WHERE name = ?", (head.stream,))
    marks = ", ".join("?" * (len(values) + 1))
    db.execute(f"INSERT INTO streams ({STREAM}, crc) VALUES ({marks})", (*values, stream_crc(values)))
    count_packs(db, number)


def count_packs(db: Database, stream: int) -> None:
    """Set the tally of a stream to what is stored."""
    db.execute(
        f"UPDATE streams SET (packs, seqs, ids) = (SELECT {SUMS} FROM packs INDEXED BY packs_seq WHERE stream = ?)"
        " WHERE id = ?",
        (stream, stream),
    )


def uncounted_streams(db: Database) -> dict[Any, int]:
    """Return the streams whose packs do not match their tallies, with the number of packs that are missing.

    A changed row may name a stream that does not exist.
    """
    with db.lenient_texts():
        found = {
            stream: tuple(sums)
            for stream, *sums in db.execute(f"SELECT stream, {SUMS} FROM packs INDEXED BY packs_seq GROUP BY stream")
        }
    known = {number: tuple(sums) for number, *sums in db.execute("SELECT id, packs, seqs, ids FROM streams")}
    nothing = (0, 0, 0)
    made = {}
    for stream in found.keys() | known.keys():
        here, counted = found.get(stream, nothing), known.get(stream, nothing)
        if here != counted:
            made[stream] = counted[0] - here[0] if isinstance(counted[0], int) else 0
    return made
