"""Makes checkpoints: soon after the start, after each hour of UTC, and at the end of the run."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import TYPE_CHECKING

from agent.checkpoint import CheckpointPage, checkpoint
from agent.service.db_thread import DatabaseThread
from agent.service.signing_key import ActiveKey
from agent.service.store_check import checkpoint_checker
from agent.store import Store
from drivers.model import GatewayError

if TYPE_CHECKING:
    from agent.uplink import Uplink

log = logging.getLogger("meterhouse")
FIRST_S = 3.0  # time from the start to the first checkpoint; the first packs are sealed by then
LOOK_EVERY_S = 10.0
# a checkpoint is made LATE_MS after each hour, because the last packs of the hour are sealed by then
HOUR_MS, LATE_MS = 3_600_000, 15_000


class CheckpointMaker:
    """Makes, stores and publishes checkpoints. The database thread signs them, as it signs packs.

    Args:
        gateway: full name of the gateway, such as ``park7/gw01``.
        devices: returns the names of the configured devices.
    """

    def __init__(
        self,
        db_thread: DatabaseThread,
        active_key: ActiveKey,
        gateway: str,
        uplinks: Sequence[Uplink],
        devices: Callable[[], Collection[str]],
        wall_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._db_thread, self._active_key, self._gateway, self._uplinks = db_thread, active_key, gateway, uplinks
        self._devices, self._wall_ms = devices, wall_ms
        self._newest: list[CheckpointPage] = []

    async def run(self) -> None:
        """Make a checkpoint soon after the start, and then every hour, until cancelled."""
        await asyncio.sleep(FIRST_S)
        done = None
        while True:
            hour = (self._wall_ms() - LATE_MS) // HOUR_MS
            if hour != done and await self.make():
                done = hour
            await asyncio.sleep(LOOK_EVERY_S)

    async def make(self) -> bool:
        """Sign the durable heads, store the pages, and publish them. Returns False if the store could not commit."""
        devices = frozenset(self._devices())
        try:
            pages = await self._db_thread.call(lambda store: self._keep(store, devices))
        except GatewayError as error:
            log.warning("checkpoint postponed: %s", error)
            return False
        self._newest = pages
        for page in pages:
            for uplink in self._uplinks:
                uplink.retain(f"checkpoint/{page.page}", page.data)
        return True

    def again(self, uplinks: Iterable[Uplink]) -> None:
        """Publish the newest checkpoint to destinations that a reload has added."""
        for uplink in uplinks:
            for page in self._newest:
                uplink.retain(f"checkpoint/{page.page}", page.data)

    def _keep(self, store: Store, devices: Collection[str]) -> list[CheckpointPage]:
        store.packs.begin_record()
        heads = store.packs.heads().values()
        made: list[CheckpointPage] = []

        def is_retired(stream: str) -> bool:
            name = stream.rpartition("/")[2]
            return not name.startswith("_") and name not in devices

        def after(before: Sequence[tuple[int, int, bytes]]) -> list[CheckpointPage]:
            now_ms, signer = self._wall_ms(), self._active_key.signer
            made.extend(checkpoint(signer, self._gateway, heads, before, now_ms, retired=is_retired))
            return made

        # a checkpoint must not follow a page that the disk has changed: nobody has an object with its hash
        if heads and (bad := store.documents.chain_checkpoint(after, checkpoint_checker(store))):
            log.error("deleted checkpoints of the store that the disk had changed: %d", bad)
        return made
