"""Fetches births that gateways published before the platform started. The broker retains the newest birth of each
stream.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Final, Protocol

from agent.verify import CheckedPack, check
from agent.verify.strict import inflate
from receiver.database import Connection, short_hash, statement
from receiver.settle import ring_of
from receiver.store import put_birth

log = logging.getLogger("meterhouse.platform")
AT_ONCE: Final = 200  # one round requests the births of at most this many streams
AGAIN_S: Final = 60.0  # pause before a birth that was not found is requested again
WAIT_S: Final = 3.0  # longest wait for the retained messages of the broker
_MISSING: Final = statement("births_missing")


class Retained(Protocol):
    """A connection that can fetch retained messages from the broker. The keeper's connection implements it."""

    @property
    def is_connected(self) -> bool: ...

    def retained(self, topics: list[str], wait_s: float) -> Mapping[str, bytes]:
        """The retained messages by topic. A topic without a retained message is left out."""


class BirthFetcher:
    """Fetches births that stored packs refer to, but that the database does not have.

    Each birth is requested at most once a minute.
    """

    def __init__(self, broker: Retained, clock: Callable[[], float]) -> None:
        self._broker, self._clock = broker, clock
        self._next: dict[int, float] = {}  # stream -> time of the next request

    def step(self, connection: Connection) -> int:
        """Run one round. Returns the number of births that were found and stored."""
        if not self._broker.is_connected:
            return 0
        now = self._clock()
        self._next = {stream: at for stream, at in self._next.items() if at > now}
        rows = connection.execute(_MISSING, [AT_ONCE + len(self._next)]).fetchall()
        wanted = {f"meterhouse/v1/{row[1]}/birth": row for row in rows if row[0] not in self._next}
        if not wanted:
            return 0
        self._next.update({row[0]: now + AGAIN_S for row in wanted.values()})
        found = 0
        for topic, raw in self._broker.retained([*wanted], WAIT_S).items():
            stream, _, gateway = wanted[topic]
            found += self._store(connection, stream, gateway, topic, raw)
        return found

    def _store(self, connection: Connection, stream: int, gateway: str, topic: str, raw: bytes) -> bool:
        pack = check(raw, topic, ring_of(connection, gateway), lambda birth: None)
        if not isinstance(pack, CheckedPack) or pack.table is None or pack.faults:
            why = pack.faults[0].text if isinstance(pack, CheckedPack) and pack.faults else getattr(pack, "text", "")
            log.warning("%s: the retained birth is not valid: %s", topic, why)
            return False
        with connection.transaction(), connection.cursor() as cursor:
            put_birth(cursor, pack)
            cursor.execute(
                "INSERT INTO birth_copies VALUES (%s, %s, %s) ON CONFLICT DO NOTHING",
                [short_hash(pack.digest), stream, inflate(raw)],
            )
        return True
