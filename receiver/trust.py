"""The list of trusted keys. Only the operator changes it; a received message never does."""

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
from receiver.checker import add_chains, keys_message
from receiver.database import Connection
from receiver.key_chains import put_keys, stored_keys

MAX_ROWS: Final = 1_000_000
_THUMBPRINT: Final = re.compile(r"[A-Za-z0-9_-]{43}")
# Stored keys that name no trusted thumbprint are of no use.
_DELETE_UNPINNED: Final = """
DELETE FROM gateways g WHERE g.name = ANY(%s) AND NOT EXISTS (
  SELECT FROM pins p WHERE p.gateway = g.name AND position(convert_to(p.thumbprint, 'UTF8') IN g.keys) > 0)"""
_DELETE_UNPINNED_OTHERS: Final = """
DELETE FROM other_keys k WHERE k.gateway = ANY(%s) AND NOT EXISTS (
  SELECT FROM pins p WHERE p.gateway = k.gateway AND position(convert_to(p.thumbprint, 'UTF8') IN k.keys) > 0)"""
# the other chains of gateways whose first chain was deleted
_ORPHANS: Final = """
DELETE FROM other_keys k WHERE k.gateway = ANY(%s) AND NOT EXISTS (SELECT FROM gateways g WHERE g.name = k.gateway)
RETURNING k.gateway, k.keys"""


@dataclass(slots=True)
class Enrolment:
    """A gateway to trust. ``streams`` has names and patterns of the streams that are requested from the gateway.

    If ``streams`` is empty, the stored list is kept. If there is no stored list, all streams are requested.
    """

    gateway: str
    thumbprints: list[str] = field(default_factory=list)
    streams: list[str] = field(default_factory=list)


def read_csv(path: Path) -> list[Enrolment]:
    """Read a CSV file with lines ``gateway,thumbprint[,streams]``. A gateway may have several lines.

    Streams are separated by spaces. Each is a name or a pattern, such as ``inv1`` or ``meter-*``, as in the gateway's
    setting ``streams``. The file may have a header.

    Raises:
        ConfigError: the file cannot be read or has faulty lines; the error lists up to 20 of them.
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
                    head = f'the header is "{",".join(cells)[:80]}"'
                    what = head if is_header else f"the line has {len(cells)} columns"
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
    """Trust these gateways, in addition to those that are already trusted.

    Returns the gateways whose keys had arrived before. If an enrolment names streams, only these are requested from its
    gateway from now on.
    """
    with connection.transaction(), connection.cursor() as cursor:
        # This update must come first. Meanwhile a worker may store keys of these gateways as unknown. Either it commits
        # before this update, and the keys are found below, or it sees the new number and checks the keys again.
        cursor.execute("UPDATE trust_changes SET number = number + 1")
        pins = [(one.gateway, thumbprint) for one in rows for thumbprint in one.thumbprints]
        cursor.executemany("INSERT INTO pins (gateway, thumbprint) VALUES (%s, %s) ON CONFLICT DO NOTHING", pins)
        agreed = [(one.gateway, stream) for one in rows for stream in one.streams]
        cursor.execute("DELETE FROM agreed WHERE gateway = ANY(%s)", [[one.gateway for one in rows if one.streams]])
        cursor.executemany("INSERT INTO agreed VALUES (%s, %s) ON CONFLICT DO NOTHING", agreed)
        names = [one.gateway for one in rows]
        for query in (_DELETE_UNPINNED, _DELETE_UNPINNED_OTHERS):
            cursor.execute(query, [names])
        known = [name for (name,) in cursor.execute("SELECT name FROM gateways WHERE name = ANY(%s)", [names])]
        waiting = cursor.execute(_ORPHANS, [names]).fetchall()
        waiting += cursor.execute(
            "SELECT gateway, keys FROM unknown_gateways WHERE gateway = ANY(%s) FOR UPDATE", [names]
        ).fetchall()
        for gateway, keys in waiting:
            trusted = [t for (t,) in cursor.execute("SELECT thumbprint FROM pins WHERE gateway = %s", [gateway])]
            ring = KeyRing(gateway, trusted)
            try:
                value = parse_object(bytes(keys))
                # the keys may revoke a key of a stored chain, whose place in the order of keys must be known
                add_chains(ring, stored_keys(connection, gateway))
                ring.update(bytes(keys), value, unordered=True)
            except Refused:
                # the keys that arrived are not the enrolled ones, so the gateway stays in the list of unknown gateways
                continue
            put_keys(cursor, keys_message(ring, bytes(keys), value))
            known.append(gateway)
    return list(dict.fromkeys(known))  # a gateway may have stored keys and other keys that were waiting


def remove(connection: Connection, gateways: Iterable[str]) -> int:
    """Stop trusting these gateways. Their stored packs are kept. Returns how many of the gateways had been trusted."""
    names = list(gateways)
    with connection.transaction(), connection.cursor() as cursor:
        cursor.execute("DELETE FROM agreed WHERE gateway = ANY(%s)", [names])
        cursor.execute("UPDATE trust_changes SET number = number + 1")
        found = cursor.execute("DELETE FROM pins WHERE gateway = ANY(%s) RETURNING gateway", [names])
        return len({gateway for (gateway,) in found})


def forget(connection: Connection, gateways: Iterable[str] | None) -> int:
    """Remove gateways from the list of unknown gateways. None: remove all. Returns the number of removed gateways.

    A gateway that still publishes appears in the list again.
    """
    names = None if gateways is None else list(gateways)
    query = "DELETE FROM unknown_gateways WHERE %s::text[] IS NULL OR gateway = ANY(%s)"
    return connection.execute(query, [names, names]).rowcount


def trusted_count(connection: Connection) -> int:
    """The number of trusted gateways."""
    row = connection.execute("SELECT count(DISTINCT gateway) FROM pins").fetchone()
    return int(row[0]) if row else 0


def shared_thumbprints(pins: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """Map each thumbprint that several gateways share to these gateways. Shared thumbprints appear if a disk was
    copied.
    """
    found: dict[str, set[str]] = {}
    for gateway, thumbprint in pins:
        found.setdefault(thumbprint, set()).add(gateway)
    return {thumbprint: sorted(names) for thumbprint, names in found.items() if len(names) > 1}


def exported(connection: Connection) -> list[tuple[str, str, str]]:
    """All trusted gateways as rows (gateway, thumbprint, streams), which ``read_csv`` can read again."""
    query = (
        "SELECT p.gateway, p.thumbprint, coalesce((SELECT string_agg(a.stream, ' ' ORDER BY a.stream) FROM agreed a "
        "WHERE a.gateway = p.gateway), '') FROM pins p ORDER BY 1, 2"
    )
    return connection.execute(query).fetchall()
