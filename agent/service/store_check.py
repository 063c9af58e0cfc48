"""The store scrubber: checks the whole store once a day, in slices.

It reports to the log, to the status, and as events.

The store drops a pack that no longer matches its signature. If a destination has not confirmed the pack, the
store also states the loss. If the SQLite file itself is damaged, the agent ends. The next start then sets the file
aside, and salvages the packs that can be read.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from agent.keys import TYP_CHECKPOINT, TYP_PACK
from agent.service.db_thread import DatabaseThread
from agent.store import Store, StoreDamaged, newest_damaged
from drivers.model import GatewayError

log = logging.getLogger("meterhouse")
FIRST_S = 300.0  # the first check begins this long after the start, because the agent is busy until then
EVERY_MS = 86_400_000
# scrubbing takes a tenth of the database thread's time: after each slice, it pauses nine times as long
SHARE = 10
AGAIN_S = 600.0  # pause in s after a disk error


class StoreScrubber:
    """Checks the store. It has no thread of its own: each slice runs in the database thread.

    Args:
        note: adds an event to the gateway's stream.
    """

    def __init__(
        self,
        db_thread: DatabaseThread,
        note: Callable[[Mapping[str, Any]], object],
        first_s: float = FIRST_S,
        wall_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._db_thread, self._note, self._first_s, self._wall_ms = db_thread, note, first_s, wall_ms
        self.warnings: list[str] = []
        self.last_ms = 0  # when the last check ended, in UTC ms; 0: there was no check yet
        self.bad_packs = 0  # number of bad packs found since the start
        self.under_way = False
        self._damaged: Path | None = None  # the newest database that any start set aside
        self._set_aside: dict[str, Any] | None = None  # what is only in the database that this start set aside

    def facts(self) -> dict[str, Any]:
        """Return the findings for `status`."""
        return {
            "warnings": self.warnings,
            "inspected": self.last_ms / 1000 or None,
            "inspecting": self.under_way,
            "bad_packs": self.bad_packs,
            "set_aside": self._set_aside,
            "damaged": self._damaged_facts(),
        }

    def _damaged_facts(self) -> dict[str, Any] | None:
        """Return the newest damaged database that was set aside, while its file lies beside the new one."""
        if self._damaged is None or not self._damaged.exists():
            return None
        at = datetime.strptime(self._damaged.name.rpartition(".damaged-")[2][:16], "%Y%m%dT%H%M%SZ")
        return {"file": str(self._damaged), "at": at.replace(tzinfo=UTC).timestamp()}

    async def run(self) -> None:
        """Scrub once a day until cancelled. Raises StoreDamaged."""
        self.warnings, aside, self.last_ms = await self._db_thread.call(
            lambda store: (store.warnings(), _aside(store), self._checked_ms(store))
        )
        self._damaged = await self._db_thread.call(lambda store: newest_damaged(store.db.path))
        for text in self.warnings:
            log.warning("%s", text)
        if aside:
            log.error("the database was damaged (%(found)s) and was set aside as %(aside)s: %(saved)d pending packs "
                      "were salvaged, %(lost)d are lost", aside)  # fmt: skip
            self._tell_left_behind(aside)
            self._note(aside)
        if found := await self._db_thread.call(lambda store: len(store.db.findings)):
            self._note({"event": "store_check", "ok": False, "rows": found})
        await asyncio.sleep(self._first_s)
        while True:
            # if the clock was set back, the next check must still begin within a day
            wait_ms = min(max(self.last_ms + EVERY_MS - self._wall_ms(), 0), EVERY_MS) if self.last_ms else 0
            await asyncio.sleep(wait_ms / 1000)
            try:
                await self.scrub()
            except StoreDamaged as error:
                self._note({"event": "store_check", "found": error.what, "ok": False})
                raise
            except GatewayError as error:  # the disk failed; sealing reports this too
                log.warning("store check postponed: %s", error)
                await asyncio.sleep(AGAIN_S)

    def _checked_ms(self, store: Store) -> int:
        """Return when the last check ended; 0: never. A new store has nothing to check yet, so its day begins now."""
        checked_ms = store.checked_ms()
        if checked_ms or store.quarantine or store.packs.heads():
            return checked_ms
        return store.mark_checked(self._wall_ms())

    def _tell_left_behind(self, aside: Mapping[str, Any]) -> None:
        counts = {name: aside[name] for name in ("declarations", "devices")}
        if not any(count is None or count for count in counts.values()):
            return
        self._set_aside = {"at": self._wall_ms() / 1000, "file": aside["aside"], **counts}
        declarations, devices = ("an unknown number of" if count is None else count for count in counts.values())
        log.error("%s declarations and the facts of %s devices were not copied, and are only in %s: enter the "
                  "declarations again with `meterhouse declare`", declarations, devices, aside["aside"])  # fmt: skip

    async def scrub(self) -> None:
        """Check the whole store once. Raises GatewayError."""
        began, self.under_way = time.monotonic(), True
        try:
            inspection = await self._db_thread.call(lambda store: store.start_check(pack_checker(store)))
            more = True
            while more:
                start = time.monotonic()
                more = await self._db_thread.call(lambda store: inspection.step())
                await asyncio.sleep((time.monotonic() - start) * (SHARE - 1))
            self.last_ms = await self._db_thread.call(lambda store: store.mark_checked(self._wall_ms()))
        finally:
            self.under_way = False
        took = time.monotonic() - began
        log.info("store check finished: %d packs and %d rows in %.0f s", inspection.packs, inspection.rows, took)
        if inspection.bad_packs:
            self.bad_packs += inspection.bad_packs
            log.error(
                "%d packs in the store did not match their signature; the agent deleted them", inspection.bad_packs
            )
            self._note({"event": "store_check", "ok": False, "packs": inspection.bad_packs})


def _aside(store: Store) -> dict[str, Any] | None:
    """Return the event about a database that this start found damaged. None: it was not damaged."""
    if store.quarantine is None:
        return None
    return {
        "aside": Path(store.quarantine.path).name,
        "declarations": store.left_behind.declarations,
        "devices": store.left_behind.devices,
        "event": "store_damaged",
        "found": store.quarantine.reason,
        "lost": store.lost_packs,
        "saved": store.saved_packs,
    }


def pack_checker(store: Store) -> Callable[[bytes], bool]:
    """Return a function that returns False for a pack whose signature is invalid."""
    return store.keys.checker(TYP_PACK, unknown=True)


def checkpoint_checker(store: Store) -> Callable[[int, int, bytes], bool]:
    """Return a function that returns False for a stored page of a checkpoint that the disk has changed.

    Its arguments are page, counter and object. The key records of the store name all keys that signed checkpoints, so
    an object of another key is damaged.
    """
    holds = store.keys.checker(TYP_CHECKPOINT, unknown=False)

    def is_intact(page: int, counter: int, data: bytes) -> bool:
        if not holds(data):
            return False
        body = json.loads(data)
        return bool(body["page"] == page and body["counter"] == counter)

    return is_intact
