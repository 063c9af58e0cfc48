"""The stored keys of gateways: the newest keys object of each chain of keys.

A gateway has several chains if its key was lost or its box was replaced, and the keys of each chain are trusted. The
packs that the keys of an older chain signed may still arrive.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

from agent.verify.strict import parse_object
from receiver.checker import KeysMessage
from receiver.database import Connection


class TrustChanged(Exception):
    """A gateway was enrolled or removed while a batch was checked. The batch must be checked again."""


def put_keys(cursor: psycopg.Cursor[Any], one: KeysMessage) -> None:
    """Store the newest keys of a gateway. Older keys of the same chain change nothing.

    The counter of a new chain begins anew, for example because the box was replaced. So each chain is stored.

    Raises TrustChanged if the gateway is enrolled anew meanwhile, so that its stored keys are deleted.
    """
    # the keys of a replacement box keep waiting, even if the old box publishes its keys again
    query = "DELETE FROM unknown_gateways WHERE gateway = %s AND position(convert_to(thumbprint, 'UTF8') IN %s) > 0"
    cursor.execute(query, [one.gateway, one.body])
    cursor.execute(
        "INSERT INTO gateways (name, keys, counter, revoked, cut) VALUES (%s, %s, %s, %s, %s) "
        "ON CONFLICT (name) DO NOTHING",
        [one.gateway, one.body, one.counter, _revocations(one.revoked), not one.revoked],
    )
    if cursor.rowcount:
        return
    query = "SELECT keys, counter, revoked FROM gateways WHERE name = %s FOR UPDATE"
    row = cursor.execute(query, [one.gateway]).fetchone()
    if row is None:  # the keys may belong to the old thumbprint, or to the new one
        raise TrustChanged
    known, is_newer = bytes(row[0]), one.counter > row[1]
    before = {int(signer): last for signer, last in (row[2] or {}).items()}
    revoked = _both(before, one.revoked)
    first, known_first = first_key(one.body), first_key(known)
    is_new = is_newer
    if first != known_first:
        other = (known_first, known, row[1]) if is_newer else (first, one.body, one.counter)
        cursor.execute(
            "INSERT INTO other_keys (gateway, first, keys, counter) VALUES (%s, %s, %s, %s) "
            "ON CONFLICT (gateway, first) DO UPDATE SET keys = excluded.keys, counter = excluded.counter "
            "WHERE excluded.counter > other_keys.counter",
            [one.gateway, *other],
        )
        is_new = is_newer or bool(cursor.rowcount)
    # known keys may revoke a key of a chain that was stored after them
    if not is_new and revoked == before:
        return
    keys, counter = (one.body, one.counter) if is_newer else (known, row[1])
    cursor.execute(
        "UPDATE gateways SET keys = %s, counter = %s, revoked = %s, cut = %s, changed = now() WHERE name = %s",
        [keys, counter, _revocations(revoked), not revoked, one.gateway],
    )
    if is_newer:
        cursor.execute("DELETE FROM other_keys WHERE gateway = %s AND first = %s", [one.gateway, first])


def stored_keys(connection: Connection, gateway: str) -> list[bytes]:
    """The newest keys object of each chain of a gateway. The object with the highest counter is first."""
    query = (
        "SELECT keys FROM (SELECT keys, counter, 0 AS place FROM gateways WHERE name = %s "
        "UNION ALL SELECT keys, counter, 1 FROM other_keys WHERE gateway = %s) k ORDER BY place, counter DESC"
    )
    return [bytes(keys) for (keys,) in connection.execute(query, [gateway, gateway])]


def first_key(keys: bytes) -> str:
    """The thumbprint of the first key of a keys object that was accepted."""
    return str(parse_object(keys)["records"][0]["kid"])


def _revocations(revoked: Mapping[int, Mapping[str, int]]) -> Jsonb | None:
    return Jsonb({str(signer): dict(last) for signer, last in revoked.items()}) if revoked else None


def _both(one: Mapping[int, Mapping[str, int]], other: Mapping[int, Mapping[str, int]]) -> dict[int, Mapping[str, int]]:
    """The revocations of two chains. For a key in both, the lower sequences count, so that trust never grows again."""
    found = {**one, **other}
    for signer in one.keys() & other.keys():
        mine, more = one[signer], other[signer]
        found[signer] = {stream: min(mine[stream], more[stream]) for stream in mine.keys() & more.keys()}
    return found
