"""Which keys are trusted: the operator decides, never a received message."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from agent.verify import KeyRing, Refused
from agent.verify.agreed import PATTERN
from agent.verify.strict import parse_object
from agent.verify.topics import GATEWAY
from drivers.model import ConfigError
from receiver.checker import keys_message
from receiver.database import Connection
from receiver.store import put_keys

MAX_ROWS: Final = 1_000_000
_THUMBPRINT: Final = re.compile(r"[A-Za-z0-9_-]{43}")


@dataclass(slots=True)
class Enrolment:
    """A gateway that is trusted. ``streams``: names and patterns of the requested streams; empty: unchanged, or all."""

    gateway: str
    thumbprints: list[str] = field(default_factory=list)
    streams: list[str] = field(default_factory=list)


def read_csv(path: Path) -> list[Enrolment]:
    """``gateway,thumbprint[,streams]``, streams separated by spaces; a gateway may have several lines.

    A stream is a name or a pattern, as in the gateway's ``streams``: ``inv1``, ``meter-*``. A header may precede.

    Raises:
        ConfigError: with all faulty lines.
    """
    complaints: list[ConfigError] = []
    found: dict[str, Enrolment] = {}

    def complain(line: int, what: str, hint: str) -> None:
        complaints.append(ConfigError(what, where=f"{path}:{line}", hint=hint))

    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            for row in reader:
                line = reader.line_num
                cells = [cell.strip() for cell in row]
                is_header = cells[:2] == ["gateway", "thumbprint"]
                if not row or cells[0].startswith("#") or (is_header and cells[2:] in ([], [""], ["streams"])):
                    continue
                if is_header or len(cells) not in (2, 3):
                    what = f'header "{",".join(cells)[:80]}"' if is_header else f"{len(cells)} columns"
                    complain(line, what, "Expected gateway,thumbprint or gateway,thumbprint,streams")
                elif not GATEWAY.fullmatch(cells[0]):
                    complain(line, f'gateway "{cells[0][:80]}"', "Expected <site>/<gateway>, such as park7/gw01")
                elif not _THUMBPRINT.fullmatch(cells[1]):
                    hint = "Expected the 43 characters that `meterhouse keys show` prints on the gateway"
                    complain(line, f'thumbprint "{cells[1][:80]}"', hint)
                elif wrong := [
                    name for name in (cells[2].split() if len(cells) == 3 else []) if not PATTERN.match(name)
                ]:
                    complain(
                        line,
                        f'stream "{wrong[0][:80]}"',
                        "Expected names and patterns such as inv1, meter-* or _indicators, separated by spaces",
                    )
                else:
                    one = found.setdefault(cells[0], Enrolment(cells[0]))
                    one.thumbprints.append(cells[1])
                    one.streams += cells[2].split() if len(cells) == 3 else []
                if len(found) > MAX_ROWS or len(complaints) >= 20:
                    break
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(str(error), where=str(path), hint="Expected a CSV file in UTF-8") from None
    if complaints:
        raise ConfigError(
            complaints[0].what, where=complaints[0].where, hint=complaints[0].hint, complaints=tuple(complaints)
        )
    if not found:
        raise ConfigError("contains no gateway", where=str(path), hint="Expected lines such as park7/gw01,<thumbprint>")
    return list(found.values())


def enrol(connection: Connection, rows: Sequence[Enrolment]) -> list[str]:
    """Trust these gateways in addition to the present ones. Returns those that waited in the queue and are now known.

    If a gateway has streams here, only these are requested of it from now on.
    """
    with connection.transaction(), connection.cursor() as cursor:
        # first: a worker that is putting keys of these gateways into the queue ends before, or looks once more
        cursor.execute("UPDATE trust_changes SET number = number + 1")
        pins = [(one.gateway, thumbprint) for one in rows for thumbprint in one.thumbprints]
        cursor.executemany("INSERT INTO pins (gateway, thumbprint) VALUES (%s, %s) ON CONFLICT DO NOTHING", pins)
        agreed = [(one.gateway, stream) for one in rows for stream in one.streams]
        cursor.execute("DELETE FROM agreed WHERE gateway = ANY(%s)", [[one.gateway for one in rows if one.streams]])
        cursor.executemany("INSERT INTO agreed VALUES (%s, %s) ON CONFLICT DO NOTHING", agreed)
        names = [one.gateway for one in rows]
        known = [name for (name,) in cursor.execute("SELECT name FROM gateways WHERE name = ANY(%s)", [names])]
        waiting = cursor.execute(
            "SELECT gateway, keys FROM unknown_gateways WHERE gateway = ANY(%s) FOR UPDATE", [names]
        ).fetchall()
        for gateway, keys in waiting:
            trusted = [t for (t,) in cursor.execute("SELECT thumbprint FROM pins WHERE gateway = %s", [gateway])]
            ring = KeyRing(gateway, trusted)
            try:
                value = parse_object(bytes(keys))
                ring.update(bytes(keys), value)
            except Refused:
                continue  # its keys are not the enrolled ones: it stays in the queue
            put_keys(cursor, keys_message(ring, bytes(keys), value))
            known.append(gateway)
    return known


def remove(connection: Connection, gateways: Iterable[str]) -> int:
    """Stop trusting these gateways. Stored packs stay. Returns how many were trusted."""
    names = list(gateways)
    with connection.transaction(), connection.cursor() as cursor:
        cursor.execute("DELETE FROM agreed WHERE gateway = ANY(%s)", [names])
        cursor.execute("UPDATE trust_changes SET number = number + 1")
        found = cursor.execute("DELETE FROM pins WHERE gateway = ANY(%s) RETURNING gateway", [names])
        return len({gateway for (gateway,) in found})


def forget(connection: Connection, gateways: Iterable[str] | None) -> int:
    """Remove these from the queue of unknown gateways; None: all. Those that still publish reappear."""
    names = None if gateways is None else list(gateways)
    query = "DELETE FROM unknown_gateways WHERE %s::text[] IS NULL OR gateway = ANY(%s)"
    return connection.execute(query, [names, names]).rowcount


def trusted_count(connection: Connection) -> int:
    """How many gateways are trusted."""
    row = connection.execute("SELECT count(DISTINCT gateway) FROM pins").fetchone()
    return int(row[0]) if row else 0


def shared_thumbprints(pins: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """Keys shared by several gateways, as after a disk was copied: thumbprint and gateways."""
    found: dict[str, set[str]] = {}
    for gateway, thumbprint in pins:
        found.setdefault(thumbprint, set()).add(gateway)
    return {thumbprint: sorted(names) for thumbprint, names in found.items() if len(names) > 1}


def exported(connection: Connection) -> list[tuple[str, str, str]]:
    """All that is trusted, as ``read_csv`` takes it: gateway, thumbprint, streams."""
    query = (
        "SELECT p.gateway, p.thumbprint, coalesce((SELECT string_agg(a.stream, ' ' ORDER BY a.stream) FROM agreed a "
        "WHERE a.gateway = p.gateway), '') FROM pins p ORDER BY 1, 2"
    )
    return connection.execute(query).fetchall()
