"""The database thread. Only this thread seals packs, uses the database, and offers durable packs to the uplinks.

Work arrives in a queue. Results go back to the loop with ``call_soon_threadsafe``.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from agent.keys import KeyFileError
from agent.outbox import Ack, OutboxItem, ReplayPage
from agent.pack import SealedPack
from agent.service.seal_jobs import SealedSegment, SealJob
from agent.store import LossNote, Store, StoreDamaged
from drivers.model import GatewayError, Reason
from ext.canon import RawJson, dumps

if TYPE_CHECKING:
    from agent.uplink import Uplink

T = TypeVar("T")
COMMIT_BYTES = 1 << 19  # a transaction gets about this many bytes of packs, which takes few fsyncs and little memory
FLUSH_S = 1.0  # confirmations wait at most this long for the next commit of packs; then they are committed alone
_REMOVED = "this destination is no longer configured"


class DatabaseThread:
    """Executes seal jobs, commits their packs, and offers these to the uplinks. Implements ``Outbox`` for the uplinks.

    Args:
        open_store: called in the thread. If it raises an error, ``start`` raises the same error.
        clock: returns the ``clock`` object for packs that are made now.

    ``on_committed`` is called in the thread as soon as packs are durable and offered to the uplinks.

    ``on_trouble`` is called in the loop:
    - with a text if the store cannot commit
    - with a text and the reason of later gaps if the key cannot sign

    Packs can be sealed again when ``seal`` executes all its jobs.
    """

    def __init__(self, open_store: Callable[[], Store], clock: Callable[[], Mapping[str, Any]]) -> None:
        self._open_store, self._clock = open_store, clock
        self.on_trouble: Callable[..., None] = _noop
        self.on_committed: Callable[[Store, Sequence[SealedSegment]], None] = _noop
        self._queue: queue.SimpleQueue[Callable[[Store], None] | None] = queue.SimpleQueue()
        self._loop = asyncio.get_running_loop()
        self._uplinks: tuple[Uplink, ...] = ()
        self._thread = threading.Thread(target=self._run, name="database", daemon=True)
        self._ready: asyncio.Future[None] = self._loop.create_future()
        self._stopped: asyncio.Future[None] = self._loop.create_future()
        self._leaving: Callable[[], None] = _noop
        # the members below are used only in the database thread:
        self._confirmed: dict[str, list[int]] = {}
        self._confirmed_at = 0.0
        self._losses: list[LossNote] = []
        self._damaged: StoreDamaged | None = None

    # --- the loop's side

    async def start(self) -> None:
        """Start the thread and open the database. Raises the error of ``open_store``."""
        self._thread.start()
        await self._ready

    def set_uplinks(self, uplinks: Sequence[Uplink]) -> None:
        """Offer packs to these destinations from now on."""
        self._uplinks = tuple(uplinks)

    def call(self, function: Callable[[Store], T]) -> asyncio.Future[T]:
        """Run ``function`` with the store in the database thread. Returns a future for its result, or its exception."""
        future: asyncio.Future[T] = self._loop.create_future()

        def run(store: Store) -> None:
            try:
                result = self._do(store, function)
            except Exception as error:  # noqa: BLE001 - raised in the caller
                self._post_to_loop(_fail, future, error)
            else:
                self._post_to_loop(_settle, future, result)

        self._queue.put(run)
        return future

    def seal(self, jobs: Sequence[SealJob], whole: bool = False) -> asyncio.Future[int]:
        """Execute seal jobs and commit their packs, half a megabyte per transaction.

        Returns a future for N: the first N jobs are committed, the rest are not.

        ``whole``: commit all jobs in one transaction, or none of them. The jobs must then be small.
        """
        return self.call(lambda store: self._seal(store, jobs, whole))

    async def prune(self, now_ms: int) -> set[str]:
        """Keep the store within its limits. Returns the names of the streams whose next pack must state a loss."""

        def run(store: Store) -> set[str]:
            self._losses = store.prune(now_ms)
            return {note.stream for note in self._losses}

        return await self.call(run)

    async def reconfigure(self, change: Callable[[Store], None]) -> None:
        """Call ``change``, which changes limits or destinations of the store.

        All confirmations that have arrived are written first.
        """

        def run(store: Store) -> None:
            self._flush(store, 0)
            change(store)
            self._confirmed = {name: ids for name, ids in self._confirmed.items() if name in store.packs.destinations}

        await self.call(run)

    async def stop(self) -> None:
        """Commit the confirmations, close the database, and end the thread."""
        self._queue.put(None)
        await self._stopped
        self._thread.join()

    # --- the uplinks' side (any thread): the Outbox protocol

    def fetch(
        self,
        dest: str,
        after_id: int,
        limit: int,
        max_bytes: int,
        callback: Callable[[Sequence[OutboxItem]], None],
    ) -> None:
        """Read unconfirmed packs, see ``Outbox.fetch``. A destination that is not configured has no packs."""

        def run(store: Store) -> None:
            known = dest in store.packs.destinations
            callback(store.packs.pending(dest, after_id, limit, max_bytes) if known else ())

        self._queue.put(run)

    def births(self, after: str, limit: int, max_bytes: int, callback: Callable[[Sequence[OutboxItem]], None]) -> None:
        """Read births, see ``Outbox.births``."""
        self._queue.put(lambda store: callback(store.packs.births(after, limit, max_bytes)))

    def before_send(self) -> None:
        """Record that all packs committed so far may leave the gateway now."""
        self._leaving()

    def confirm(self, dest: str, ids: Sequence[int]) -> None:
        """Remove packs from the outbox of ``dest``. The next commit, within about a second, makes this durable."""

        def run(store: Store) -> None:
            if dest in store.packs.destinations:  # otherwise a reload has just removed the destination
                self._remove_soon(dest, ids)

        self._queue.put(run)

    def acknowledge(self, dest: str, acks: Sequence[Ack], callback: Callable[[int, str | None], None]) -> None:
        """Confirm acknowledged packs, see ``Outbox.acknowledge``."""

        def run(store: Store) -> None:
            confirmed: list[int] = []
            rejected: list[str] = []
            for ack in acks:
                try:
                    known = dest in store.packs.destinations
                    ids, wrong = store.packs.acknowledged(dest, ack) if known else ([], _REMOVED)
                except GatewayError as error:
                    ids, wrong = [], str(error)
                confirmed += ids
                rejected += [wrong] if wrong is not None else []
            if confirmed:
                self._remove_soon(dest, confirmed)
            callback(len(acks) - len(rejected), rejected[0] if rejected else None)

        self._queue.put(run)

    def replay(
        self,
        stream: str,
        boot: str | None,
        first: int,
        last: int,
        limit: int,
        max_bytes: int,
        callback: Callable[[ReplayPage], None],
    ) -> None:
        """Read packs again, see ``Outbox.replay``. If the store fails, the page has the error in ``refused``."""

        def run(store: Store) -> None:
            try:
                page = self._do(store, lambda store: store.packs.replay(stream, boot, first, last, limit, max_bytes))
            except GatewayError as error:
                page = ReplayPage(refused=str(error))
            callback(page)

        self._queue.put(run)

    def spend(self, dest: str, day: int, size: int, callback: Callable[[int], None]) -> None:
        """Count replay traffic, see ``Outbox.spend``. If the store fails, ``callback`` is not called."""
        self._queue.put(lambda store: callback(store.packs.count_replayed(dest, day, size)))

    # --- the thread

    def _run(self) -> None:
        try:
            store = self._open_store()
            self._losses = store.call(lambda store: store.packs.losses())
            self._leaving = store.mark_sent
        except Exception as error:  # noqa: BLE001 - raised by ``start``
            self._post_to_loop(_fail, self._ready, error)
            self._post_to_loop(_settle, self._stopped, None)
            return
        self._post_to_loop(_settle, self._ready, None)
        try:
            while (job := self._next()) is not None:
                try:
                    self._do(store, job)
                except GatewayError as error:  # a request of an uplink failed; the uplink repeats it later
                    self._post_to_loop(self.on_trouble, str(error))
                self._flush(store, FLUSH_S)
            self._flush(store, 0)
        finally:
            store.close()
            self._post_to_loop(_settle, self._stopped, None)

    def _do(self, store: Store, function: Callable[[Store], T]) -> T:
        """Run a function with the store. Errors of SQLite are raised as store errors.

        If the database is damaged, the next call of ``seal`` raises the error again, which ends the service.
        """
        try:
            return store.call(function)
        except StoreDamaged as error:
            self._damaged = error
            raise

    def _next(self) -> Callable[[Store], None] | None:
        try:
            return self._queue.get(timeout=FLUSH_S if self._confirmed else None)
        except queue.Empty:
            # no job has arrived: return a job that does nothing, so that the caller writes the confirmations
            return _noop

    def _remove_soon(self, dest: str, ids: Sequence[int]) -> None:
        """Remove packs from the outbox of ``dest`` with the next commit of packs, or alone after ``FLUSH_S``."""
        if not self._confirmed:
            self._confirmed_at = time.monotonic()
        self._confirmed.setdefault(dest, []).extend(ids)

    def _flush(self, store: Store, age_s: float) -> None:
        if self._confirmed and time.monotonic() - self._confirmed_at >= age_s:
            try:
                store.packs.commit((), self._confirmed)
            except GatewayError as error:  # the confirmations wait for a later commit; at worst, a pack is sent twice
                self._confirmed_at = time.monotonic()
                self._post_to_loop(self.on_trouble, str(error))
                return
            self._confirmed = {}

    def _seal(self, store: Store, jobs: Sequence[SealJob], whole: bool) -> int:
        if self._damaged is not None:
            raise self._damaged
        clock = RawJson(dumps(self._clock()))  # written once for all packs
        done = size = 0
        batch: list[SealJob] = []
        for job in jobs:
            batch.append(job)
            try:
                job.seal(clock, self.losses_of(job.stream.name))
            except KeyFileError as error:  # for example, a hardware token has no power: the readings stay in the ring
                _undo(batch)
                self._post_to_loop(self.on_trouble, str(error), Reason.STOPPED)
                break
            size += sum(len(pack.data) for pack in job.packs)
            if (size >= COMMIT_BYTES and not whole) or job is jobs[-1]:
                if not self._commit(store, batch):
                    break
                self.on_committed(store, [segment for job in batch for segment in job.sealed])
                done += len(batch)
                batch, size = [], 0
        return done

    def reload_losses(self, store: Store) -> None:
        """Read from the store the losses that packs must state. This is called in the database thread."""
        self._losses = store.packs.losses()

    def losses_of(self, stream: str) -> list[LossNote]:
        """Return the losses that the next pack of a stream must state. This is called in the database thread."""
        return [note for note in self._losses if note.stream == stream] if self._losses else []

    def commit_packs(self, store: Store, packs: Sequence[SealedPack], stated: Sequence[LossNote] = ()) -> None:
        """Commit packs of results and offer them to the uplinks. This is called in the database thread.

        ``stated``: the losses that the first pack states. Raises the errors of ``PackTable.commit``.
        """
        ids = store.packs.commit(packs, {}, [note.id for note in stated])
        self._losses = [note for note in self._losses if note not in stated]
        self._offer(ids, packs)

    def _commit(self, store: Store, batch: Sequence[SealJob]) -> bool:
        """Commit jobs in one transaction and offer their packs. On failure, restore all packers and return False."""
        packs = [pack for job in batch for pack in job.packs]
        stated = [note.id for job in batch for note in job.losses]
        # if a stream has several births, the newest one counts
        facts = {pack.stream: pack.facts for pack in packs if pack.facts is not None}
        try:
            ids = store.packs.commit(packs, self._confirmed, stated, facts)
        except StoreDamaged:
            _undo(batch)
            raise  # the error ends the service; the next start sets the database aside and seals the ring
        except GatewayError as error:
            _undo(batch)
            self._post_to_loop(self.on_trouble, str(error))
            return False
        self._confirmed = {}
        if stated:
            self._losses = [note for note in self._losses if note.id not in stated]
        self._offer(ids, packs)
        return True

    def _offer(self, ids: Sequence[int], packs: Sequence[SealedPack]) -> None:
        items = [
            OutboxItem(id=number, stream=pack.stream, data=pack.data, is_birth=pack.is_birth, to_ms=pack.to_ms)
            for number, pack in zip(ids, packs, strict=True)
        ]
        for uplink in self._uplinks:
            uplink.offer(items)

    def _post_to_loop(self, function: Callable[..., None], *args: object) -> None:
        """Call ``function`` in the loop. Does nothing if the loop is closed."""
        try:
            self._loop.call_soon_threadsafe(function, *args)
        except RuntimeError:  # the loop is closed: a second signal ended the agent at once
            return


def _settle(future: asyncio.Future[T], result: T) -> None:
    if not future.done():
        future.set_result(result)


def _fail(future: asyncio.Future[Any], error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)


def _undo(batch: Sequence[SealJob]) -> None:
    for job in reversed(batch):
        job.undo()


def _noop(*args: object) -> None:
    """The default of all callbacks: does nothing."""
