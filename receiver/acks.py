"""Acknowledges packs to gateways. An ack names a stream, a boot, and one range of consecutive sequences that are
stored.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import groupby
from operator import itemgetter
from typing import Any, Final

from agent.verify.jws import base64url
from receiver.bodies import Bodies, digest_of
from receiver.database import Connection, boot_text, statement
from receiver.publisher import Publisher

AT_ONCE: Final = 5000  # one step acknowledges at most this many ranges
# a round looks at the boots that have changed, or of which a pack was sent again, within this number of days
RECENT_DAYS: Final = 2
ALL_DAYS: Final = 36_500  # instead of RECENT_DAYS, after an outage: all boots
LIST_BYTES: Final = 32 << 10  # largest size of a message {"acks": [...]} in bytes
_NEWS: Final = statement("acks")
_DUE: Final = statement("acks_due")
Key = tuple[int, int, int, int]  # stream, boot, first and last sequence of a range


class Acknowledger:
    """Publishes acks for new ranges, then records them in the database.

    If the process is killed between the two, it publishes the same acks again, which does no harm.
    """

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher
        # False: there may be older ranges without an ack, because the broker could not be reached
        self._is_complete = False
        self.sent = 0

    def step(self, connection: Connection) -> int:
        """Run one round. Returns the number of ranges that were acknowledged."""
        if not self._publisher.is_connected:
            self._is_complete = False
            return 0
        due = self._due(connection)
        limits = {"days": RECENT_DAYS if self._is_complete else ALL_DAYS, "most": AT_ONCE}
        rows = connection.execute(_NEWS, limits).fetchall()
        bodies = Bodies(connection)
        sent: list[Key] = []
        for (gateway, lists), group in groupby(rows, key=itemgetter(2, 3)):
            acks = [(ack, (row[0], row[4], row[5], row[6])) for row in group if (ack := _ack(row, bodies)) is not None]
            for body, keys in _messages(acks, lists):
                if not self._publisher.publish(f"meterhouse/v1/{gateway}/ack", body):
                    self._is_complete = False
                    return due + self._note(connection, sent)
                sent += keys
        self._is_complete = self._is_complete or len(rows) < AT_ONCE
        return due + self._note(connection, sent)

    def _due(self, connection: Connection) -> int:
        """Acknowledge packs that were dropped, one by one. Returns their number."""
        rows = connection.execute(_DUE, [AT_ONCE]).fetchall()
        sent: list[Key] = []
        for (gateway, lists), group in groupby(rows, key=itemgetter(0, 1)):
            acks = [
                (_text(name, boot, seq, seq, bytes(digest)), (stream, boot, seq, seq))
                for _, _, name, stream, boot, seq, digest in group
            ]
            for body, keys in _messages(acks, lists):
                if not self._publisher.publish(f"meterhouse/v1/{gateway}/ack", body):
                    break
                sent += keys
        with connection.cursor() as cursor:
            cursor.executemany(
                "DELETE FROM acks_due WHERE stream = %s AND boot = %s AND seq = %s", [key[:3] for key in sent]
            )
        self.sent += len(sent)
        return len(sent)

    def _note(self, connection: Connection, sent: list[Key]) -> int:
        with connection.transaction(), connection.cursor() as cursor:
            cursor.executemany(
                "INSERT INTO acked (stream, boot, first, last) VALUES (%s, %s, %s, %s) "
                "ON CONFLICT (stream, boot, first) DO UPDATE SET last = excluded.last, at = now()",
                sent,
            )
        self.sent += len(sent)
        return len(sent)


def _ack(row: tuple[Any, ...], bodies: Bodies) -> bytes | None:
    """The ack of a range. None if the row of its last pack is damaged: the other ranges must still get their acks."""
    try:
        digest = digest_of(bodies.read(bytes(row[7])), row[8])
    except ValueError:
        return None
    return _text(row[1], row[4], row[5], row[6], digest)


def _text(stream: str, boot: int, first: int, last: int, digest: bytes) -> bytes:
    facts = {"boot": boot_text(boot), "first": first, "hash": base64url(digest), "last": last, "stream": stream}
    return json.dumps(facts, separators=(",", ":")).encode()


def _messages(acks: list[tuple[bytes, Key]], lists: bool) -> Iterator[tuple[bytes, list[Key]]]:
    """Yield (message, keys of the acks in it).

    If the gateway accepts lists, a message has as many acks as fit. Otherwise it has one.
    """
    if not lists:
        yield from ((ack, [key]) for ack, key in acks)
        return
    some: list[bytes] = []
    keys: list[Key] = []
    size = 0
    for ack, key in acks:
        if some and size + len(ack) + 1 > LIST_BYTES - 16:
            yield b'{"acks":[' + b",".join(some) + b"]}", keys
            some, keys, size = [], [], 0
        some.append(ack)
        keys.append(key)
        size += len(ack) + 1
    if some:
        yield b'{"acks":[' + b",".join(some) + b"]}", keys
