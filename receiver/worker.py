"""The worker takes messages, checks each one alone, commits them as a batch, and only then acknowledges them.

A worker may be killed at any time. Its unacknowledged messages are then delivered again. This does no harm, because
storing a message twice changes nothing.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import psycopg

from agent.verify import Refused
from agent.verify.topics import PREFIX, is_known_type
from drivers.backoff import Backoff
from drivers.model import clean_text
from receiver.checker import AnyMessage, Checker, NotYet, PackMessage, UnknownGateway
from receiver.database import DatabaseError, shard_of
from receiver.key_chains import TrustChanged
from receiver.sources import Message, ShardQueues, Source
from receiver.store import RefusedMessage, Store

log = logging.getLogger("meterhouse.platform")
BATCH: Final = 500  # one transaction stores at most this many messages
WAIT_S: Final = 0.25  # longest wait for a batch to fill
PATIENCE_S: Final = 30.0  # a message waits at most this long for its key or birth
MAX_WAITS: Final = 100  # number of messages of one gateway that may wait, so that it cannot use up MAX_WAITING
MAX_TYPES: Final = 20  # number of content types that are counted by name; all others are counted together
OUTAGES: Final = (  # faults of the database that do not depend on the message: full disk, standby, missing privilege
    psycopg.OperationalError, psycopg.InterfaceError, psycopg.InternalError, psycopg.errors.InsufficientPrivilege,
    psycopg.errors.UndefinedTable, psycopg.errors.UndefinedColumn, psycopg.errors.UndefinedFunction, DatabaseError,
)  # fmt: skip
MAX_WAITING: Final = 1000  # number of messages that may wait in total; further messages do not wait for a key or birth


@dataclass(slots=True)
class Totals:
    """The numbers since the start of this worker."""

    messages: int = 0
    packs: int = 0  # number of new packs
    readings: int = 0
    again: int = 0  # number of packs that were already stored
    refused: Counter[str] = field(default_factory=Counter)  # code -> number of refused messages
    unknown: int = 0  # number of messages of gateways that are not enrolled
    foreign: int = 0  # number of messages on topics that the platform does not store
    # unexpected content type -> number of messages; they are still checked
    content_types: Counter[str] = field(default_factory=Counter)
    failures: int = 0  # number of failed attempts to use a database
    aside: int = 0  # number of messages that were moved to the queue of a database that could not be reached


@dataclass(slots=True)
class _Waiting:
    message: Message
    since_s: float


class Worker:
    """Moves messages from one source to one or more databases. ``step`` handles one batch.

    Args:
        stores: the databases, in the order of ``--db``.
        clock: monotonic seconds.
        away: indexes of the databases that could not be reached at the start.
    """

    def __init__(
        self,
        source: Source,
        stores: Sequence[Store],
        clock: Callable[[], float] = time.monotonic,
        away: Collection[int] = (),
    ) -> None:
        self.totals = Totals()
        self._source, self._stores, self._clock = source, stores, clock
        self._checkers = [Checker(store, clock) for store in stores]
        self._waiting: list[_Waiting] = []
        self._retry = [Backoff(0.5, 15.0) for _ in stores]
        self._away_until = [0.0] * len(stores)
        self._trust = [-1] * len(stores)
        self._away = set(away)
        self._queues = source if isinstance(source, ShardQueues) and len(stores) > 1 else None
        if self._queues is not None:
            for shard in range(len(stores)):
                self._queues.deliver_shard(shard, True)

    def step(self, wait_s: float = WAIT_S) -> int:
        """Take a batch of messages, store it, and acknowledge it. Returns the number of acknowledged messages."""
        now = self._clock()
        again, self._waiting = self._waiting, []
        room = max(0, min(BATCH, 2 * MAX_WAITING - len(again)))
        taken = [_Waiting(message, now) for message in self._source.take(room, wait_s)]
        for item in taken:
            if not is_known_type(item.message.content_type):
                self._note_type(item.message)
        by_shard: dict[int, list[_Waiting]] = {}
        for item in [*again, *taken]:
            by_shard.setdefault(self._shard(item.message.topic), []).append(item)
        settled = 0
        for shard, items in by_shard.items():
            done = self._put(shard, items)
            self._source.acknowledge(done)
            settled += len(done)
        for shard in self._away:
            settled += self._set_aside(shard)
        if not by_shard:
            return 0
        if settled == 0:
            time.sleep(min(0.05, wait_s))
        self.totals.messages += settled
        return settled

    def _note_type(self, message: Message) -> None:
        """Count an unexpected content type, and log it the first time.

        The message is still checked, because the type is not signed, and bridges may change it.
        """
        types, kind = self.totals.content_types, clean_text(message.content_type, 60)
        if kind not in types and len(types) >= MAX_TYPES:
            kind = "others"
        if not types[kind]:
            topic = clean_text(message.topic, 200)
            log.warning(
                "%s: content type %s, expected application/json+zstd or none; the message is checked anyway",
                topic,
                kind,
            )
        types[kind] += 1

    @property
    def waiting(self) -> int:
        """Number of messages that wait for a key, a birth or their database."""
        return len(self._waiting)

    def _shard(self, topic: str) -> int:
        gateway = "/".join(topic.removeprefix(PREFIX).split("/", 2)[:2])
        return shard_of(gateway, len(self._stores))

    def _put(self, shard: int, items: list[_Waiting]) -> list[Message]:
        """Check and store messages for one database. Returns the messages that may be acknowledged."""
        if self._clock() < self._away_until[shard]:
            self._wait_anew(items)
            return []
        batch = _Batch()
        try:
            if (changes := self._stores[shard].trust_changes()) != self._trust[shard]:
                self._checkers[shard].forget_all()
                self._trust[shard] = changes
            for item in items:
                self._check(shard, item, batch)
            new = 0
            if batch.messages or batch.refused or batch.unknown:
                new = self._stores[shard].put(batch.messages, batch.refused, batch.unknown.items())
        except OUTAGES as error:
            self._failed(shard, error)
            self._wait_anew(items)
            return []
        except TrustChanged:
            self._waiting += items
            return []
        except Exception as error:  # noqa: BLE001 a bad message must not come again and again and block the others
            return self._isolate(shard, items, error)
        self._returned(shard)
        self._waiting += batch.waiting
        self._count(batch, new)
        return batch.done

    def _wait_anew(self, items: list[_Waiting]) -> None:
        """Keep messages for a database that cannot be reached. Their waiting time starts again.

        The reason is that the keys and births that they wait for cannot be stored either.
        """
        for item in items:
            item.since_s = self._clock()
        self._waiting += items

    def _isolate(self, shard: int, items: list[_Waiting], error: Exception) -> list[Message]:
        """Find the faulty message in a batch that cannot be stored, by halving the batch, and refuse that message.

        Returns the messages that may be acknowledged.
        """
        self._checkers[shard].forget_all()
        if len(items) > 1:
            middle = len(items) // 2
            return self._put(shard, items[:middle]) + self._put(shard, items[middle:])
        message = items[0].message
        log.error(
            "a message on %s cannot be stored and is refused: %s",
            clean_text(message.topic, 200),
            clean_text(_first(error), 200),
        )
        refusal = RefusedMessage(message.topic, "internal", repr(error), message.body)
        try:
            self._stores[shard].put([], [refusal], [])
        except OUTAGES as outage:
            self._failed(shard, outage)
            self._wait_anew(items)
            return []
        self.totals.refused["internal"] += 1
        return [message]

    def _check(self, shard: int, item: _Waiting, batch: _Batch) -> None:
        message, checker = item.message, self._checkers[shard]
        gateway = "/".join(message.topic.removeprefix(PREFIX).split("/", 2)[:2])
        crowded = len(batch.waiting) >= MAX_WAITING or batch.waits[gateway] >= MAX_WAITS
        overdue = crowded or self._clock() - item.since_s > PATIENCE_S
        try:
            checked = checker.check(message.topic, message.body, patient=not overdue)
        except NotYet as need:
            if not overdue:
                batch.waiting.append(item)
                batch.waits[gateway] += 1
                return
            why = need.refusal
            batch.refused.append(RefusedMessage(message.topic, why.code, why.text, message.body))
        except Refused as error:
            batch.refused.append(RefusedMessage(message.topic, error.code, error.text, message.body))
        except UnknownGateway as error:
            keys = message.body if message.topic.endswith("/keys") else b""
            batch.unknown[error.gateway] = keys or batch.unknown.get(error.gateway, b"")
            batch.of_unknown += 1
        except (psycopg.Error, DatabaseError):
            raise
        # this is a bug: refuse the message, because otherwise it would come again and again and block other messages
        except Exception as error:
            log.exception("internal error while checking a message on %s", clean_text(message.topic, 200))
            batch.refused.append(RefusedMessage(message.topic, "internal", repr(error), message.body))
        else:
            if checked is None:
                batch.foreign += 1
            else:
                batch.messages.append(checked)
        batch.done.append(message)

    def _set_aside(self, shard: int) -> int:
        """Move messages for a database that cannot be reached to the queue of this database. Returns their number.

        Otherwise they would fill the window of unacknowledged messages, and block messages for the other databases.
        """
        keep = MAX_WAITING // len(self._stores)
        items = [item.message for item in self._waiting if self._shard(item.message.topic) == shard]
        if self._queues is None or len(items) <= keep:
            return 0
        done = self._queues.set_aside(shard, items[keep:])
        self._source.acknowledge(done)
        safe = {id(message) for message in done}
        self._waiting = [item for item in self._waiting if id(item.message) not in safe]
        self.totals.aside += len(done)
        return len(done)

    def _returned(self, shard: int) -> None:
        self._retry[shard].reset()
        if shard in self._away:
            self._away.discard(shard)
            log.warning("database %d: reachable again", shard + 1)
            if self._queues is not None:
                self._queues.deliver_shard(shard, True)

    def _failed(self, shard: int, error: Exception) -> None:
        delay_s = self._retry[shard].next_s()
        self._away_until[shard] = self._clock() + delay_s
        self.totals.failures += 1
        self._away.add(shard)
        if self._queues is not None:
            self._queues.deliver_shard(shard, False)
        self._stores[shard].drop_connection()
        self._checkers[shard].forget_all()
        log.warning(
            "database %d: %s. Its packs are not acknowledged; retrying in %.1f s", shard + 1, _first(error), delay_s
        )

    def _count(self, batch: _Batch, new: int) -> None:
        totals = self.totals
        packs = [one for one in batch.messages if isinstance(one, PackMessage)]
        totals.packs += new
        totals.again += len(packs) - new
        totals.readings += sum(one.checked.counts.readings for one in packs)
        totals.refused.update(one.code for one in batch.refused)
        totals.unknown += batch.of_unknown
        totals.foreign += batch.foreign

    def report(self) -> dict[str, Any]:
        """The totals as a dictionary, for the log and for ``--json``."""
        totals = self.totals
        return {
            "again": totals.again, "aside": totals.aside, "content_types": dict(sorted(totals.content_types.items())),
            "failures": totals.failures, "foreign": totals.foreign, "messages": totals.messages,
            "packs": totals.packs, "readings": totals.readings, "refused": dict(sorted(totals.refused.items())),
            "unknown": totals.unknown, "waiting": self.waiting,
        }  # fmt: skip


@dataclass(slots=True)
class _Batch:
    messages: list[AnyMessage] = field(default_factory=list)
    refused: list[RefusedMessage] = field(default_factory=list)
    unknown: dict[str, bytes] = field(default_factory=dict)
    waiting: list[_Waiting] = field(default_factory=list)
    waits: Counter[str] = field(default_factory=Counter)  # gateway -> number of waiting messages
    done: list[Message] = field(default_factory=list)
    of_unknown: int = 0  # number of messages of gateways that are not enrolled
    foreign: int = 0


def _first(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
