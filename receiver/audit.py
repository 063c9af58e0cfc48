"""Exports evidence from the database to a folder, which ``meterhouse verify`` checks like any other export."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from agent.verify.canonical import canonical
from agent.verify.strict import parse_object
from drivers.model import UsageError
from receiver.bodies import Bodies
from receiver.database import Connection
from receiver.key_chains import stored_keys

AT_ONCE = 1000
_AGREED = """
SELECT gateway || '=' || string_agg(stream, ',' ORDER BY stream) FROM agreed WHERE gateway = ANY(%s)
GROUP BY gateway ORDER BY gateway"""
# A page is left out if a later checkpoint has fewer pages, and so has no page with this number. A checkpoint does not
# count as later if it was signed with a revoked key.
_PAGES = """
SELECT c.page, c.body FROM checkpoints c WHERE c.gateway = %s AND NOT EXISTS (
  SELECT FROM checkpoints n LEFT JOIN gateways g ON g.name = n.gateway WHERE n.gateway = c.gateway
  AND n.counter > c.counter AND n.pages < c.page AND NOT coalesce(g.revoked ? n.signer::text, false)) ORDER BY c.page"""
# births that are not in the range themselves: those that packs in the range name, and the newest one before the range
_BIRTHS = """
SELECT seq, body FROM packs WHERE stream = %(stream)s AND is_birth
AND NOT (to_ms >= %(low)s AND from_ms < %(high)s) AND (
  hash IN (SELECT DISTINCT birth FROM packs WHERE stream = %(stream)s AND to_ms >= %(low)s AND from_ms < %(high)s)
  OR hash = (SELECT hash FROM packs WHERE stream = %(stream)s AND is_birth AND from_ms < %(low)s
    ORDER BY from_ms DESC, seq DESC LIMIT 1))
ORDER BY from_ms, seq"""


@dataclass(slots=True)
class Written:
    """The totals of an export.

    ``agreed``: the agreed streams of each gateway, in the form of `meterhouse verify --streams`.
    ``damaged``: stream and sequence of the packs that were left out, because their rows are damaged.
    """

    gateways: int = 0
    streams: int = 0
    packs: int = 0
    bytes: int = 0
    agreed: list[str] = field(default_factory=list)
    damaged: list[tuple[str, int]] = field(default_factory=list)


class NoStreamError(UsageError):
    """The database has no stream with this name. Another database of the platform may have one."""


def write_export(
    connection: Connection, folder: Path, like: str, from_ms: int | None = None, to_ms: int | None = None
) -> Written:
    """Write all packs of a site, a gateway or a stream that overlap a time range, with keys, births and checkpoints.

    Args:
        folder: is created, so it must not exist.
        like: a site, gateway or stream, such as ``park7``, ``park7/gw01`` or ``park7/gw01/inv1``.
        from_ms: beginning of the range in UTC ms; None: no limit.
        to_ms: end of the range in UTC ms, not included; None: no limit.

    Raises:
        NoStreamError: no stream has this name. Nothing was written.
        UsageError: the folder exists.
    """
    rows = connection.execute(
        "SELECT id, name, gateway FROM streams WHERE name = %s OR gateway = %s OR starts_with(gateway, %s) "
        "ORDER BY name",
        [like, like, f"{like}/"],
    ).fetchall()
    if not rows:
        raise NoStreamError(
            f'no stream matches "{like}"', where="audit", hint="`meterhouse platform status` lists gateways"
        )
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        raise UsageError(
            "this path already exists", where=str(folder), hint="Give a folder that does not exist yet"
        ) from None
    made, bodies = Written(streams=len(rows)), Bodies(connection)
    gateways = sorted({gateway for _, _, gateway in rows})
    made.agreed = [entry for (entry,) in connection.execute(_AGREED, [gateways])]
    for number, gateway in enumerate(gateways):
        _write_gateway(connection, folder / "gateways" / f"{number:04d}", gateway, made)
    by_gateway = {gateway: number for number, gateway in enumerate(gateways)}
    with connection.transaction():
        for number, (stream, name, gateway) in enumerate(rows):
            place = folder / "gateways" / f"{by_gateway[gateway]:04d}"
            _write_stream(connection, place, number, (stream, name), (from_ms, to_ms), bodies, made)
    if like.count("/") == 2:
        (folder / "streams.txt").write_text(like.rpartition("/")[2] + "\n")
    return made


def _write_gateway(connection: Connection, folder: Path, gateway: str, made: Written) -> None:
    folder.mkdir(parents=True)
    chains = stored_keys(connection, gateway)
    for number, keys in enumerate(chains, 1):
        (folder / (f"keys{number}.json" if number > 1 else "keys.json")).write_bytes(keys + b"\n")
    made.gateways += bool(chains)
    for page, body in connection.execute(_PAGES, [gateway]):
        (folder / f"checkpoint{page:04d}.json").write_bytes(bytes(body) + b"\n")
    rows = connection.execute("SELECT body FROM checkpoint_twins WHERE gateway = %s", [gateway]).fetchall()
    if rows:  # all pages go into one file, sorted by number, so that a verifier compares contradicting pages
        twins = sorted((parse_object(bytes(body)) for (body,) in rows), key=lambda twin: int(twin["counter"]))
        (folder / "checkpoint_twins.jsonl").write_bytes(b"".join(canonical(twin) + b"\n" for twin in twins))


def _write_stream(
    connection: Connection,
    folder: Path,
    number: int,
    which: tuple[int, str],
    between: tuple[int | None, int | None],
    bodies: Bodies,
    made: Written,
) -> None:
    (stream, name), (from_ms, to_ms) = which, between
    low, high = -(1 << 62) if from_ms is None else from_ms, (1 << 62) if to_ms is None else to_ms
    place = folder / f"{number:05d}"
    place.mkdir()
    lines = place / "packs.jsonl"
    # packs in the range refer to the point tables of these births
    births = connection.execute(_BIRTHS, {"stream": stream, "low": low, "high": high}).fetchall()
    if read := [raw for seq, body in births if (raw := _read(bodies, name, seq, body, made)) is not None]:
        (place / "births.jsonl").write_bytes(b"".join(raw + b"\n" for raw in read))
    copies = connection.execute(
        "SELECT body FROM birth_copies c WHERE stream = %s "
        "AND NOT EXISTS (SELECT FROM packs p WHERE p.stream = c.stream AND p.is_birth AND p.hash = c.hash)",
        [stream],
    )
    for copy, (body,) in enumerate(copies.fetchall(), 1):
        # each copy gets its own file, because a bridge may have reformatted it into several lines
        own = place / f"copy{copy}"
        own.mkdir()
        (own / "births.json").write_bytes(bytes(body) + b"\n")
    query = (
        "SELECT seq, body FROM packs WHERE stream = %s AND to_ms >= %s AND from_ms < %s "
        "UNION ALL SELECT seq, body FROM forks WHERE stream = %s AND from_ms >= %s AND from_ms < %s"
    )
    with connection.cursor(name="audit") as cursor, lines.open("wb") as file:
        cursor.itersize = AT_ONCE
        cursor.execute(query, [stream, low, high, stream, low, high])
        for seq, body in cursor:
            raw = _read(bodies, name, seq, body, made)
            if raw is None:
                continue
            made.packs += 1
            made.bytes += len(raw)
            if b"\n" in raw:  # a bridge has reformatted this pack into several lines, so it gets its own file
                (place / f"pack{made.packs}.json").write_bytes(raw)
            else:
                file.write(raw + b"\n")


def _read(bodies: Bodies, stream: str, seq: int, body: bytes, made: Written) -> bytes | None:
    """The published bytes of a pack. None if its row is damaged: the other packs must still be written."""
    try:
        return bodies.read(bytes(body))
    except ValueError:
        made.damaged.append((stream, seq))
        return None
