"""A look at the whole store once a day, slice by slice, and what it finds said where people and platforms look.

What is no longer what was sealed is dropped by the store, and stated where somebody waits for it. Where SQLite itself
is damaged the agent ends: its next start sets the file aside and takes over what can be read.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from agent.service.db_thread import DatabaseThread
from agent.store import Store, StoreDamaged
from drivers.model import GatewayError

log = logging.getLogger("meterhouse")
FIRST_S = 300.0  # after the start: there is enough to do before
EVERY_MS = 86_400_000
SHARE = 10  # of the thread's time: a tenth
AGAIN_S = 600.0  # after a disk that failed


class StoreScrubber:
    """Owns no thread: each slice is a question to the writer.

    Args:
        note: takes an event of the gateway.
    """

    def __init__(
        self,
        writer: DatabaseThread,
        note: Callable[[Mapping[str, Any]], object],
        first_s: float = FIRST_S,
        wall_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._writer, self._note, self._first_s, self._wall_ms = writer, note, first_s, wall_ms
        self.warnings: list[str] = []
        self.last_ms = 0  # when the last look ended
        self.bad_packs = 0  # since the start
        self.under_way = False

    def facts(self) -> dict[str, Any]:
        """For ``status``."""
        return {
            "warnings": self.warnings,
            "inspected": self.last_ms / 1000 or None,
            "inspecting": self.under_way,
            "bad_packs": self.bad_packs,
        }

    async def run(self) -> None:
        """Look once a day until cancelled. Raises StoreDamaged."""
        self.warnings, aside, self.last_ms = await self._writer.call(
            lambda store: (store.warnings(), _aside(store), store.inspected())
        )
        for text in self.warnings:
            log.warning("%s", text)
        if aside:
            log.error("the database was damaged (%(found)s) and was set aside as %(aside)s: %(saved)d pending packs "
                      "were salvaged, %(lost)d are lost", aside)  # fmt: skip
            self._note(aside)
        await asyncio.sleep(self._first_s)
        while True:
            # a clock that was set back must not put it off for longer than a day
            wait_ms = min(max(self.last_ms + EVERY_MS - self._wall_ms(), 0), EVERY_MS) if self.last_ms else 0
            await asyncio.sleep(wait_ms / 1000)
            try:
                await self.scrub()
            except StoreDamaged as error:
                self._note({"event": "store_check", "found": error.what, "ok": False})
                raise
            except GatewayError as error:  # the disk does not answer now: sealing says so as well
                log.warning("store check postponed: %s", error)
                await asyncio.sleep(AGAIN_S)

    async def scrub(self) -> None:
        """One look at everything. Raises GatewayError."""
        began, self.under_way = time.monotonic(), True
        try:
            inspection = await self._writer.call(lambda store: store.inspect(_checker(store)))
            more = True
            while more:
                start = time.monotonic()
                more = await self._writer.call(lambda store: inspection.step())
                await asyncio.sleep((time.monotonic() - start) * (SHARE - 1))
            self.last_ms = await self._writer.call(lambda store: store.inspected(self._wall_ms()))
        finally:
            self.under_way = False
        took = time.monotonic() - began
        log.info("store check finished: %d packs and %d rows in %.0f s", inspection.packs, inspection.rows, took)
        if inspection.bad_packs:
            self.bad_packs += inspection.bad_packs
            log.error("%d packs in the store did not match their signature; dropped", inspection.bad_packs)
            self._note({"event": "store_check", "ok": False, "packs": inspection.bad_packs})


def _aside(store: Store) -> dict[str, Any] | None:
    """The event of a database that was found damaged at this start."""
    if store.quarantine is None:
        return None
    return {
        "aside": Path(store.quarantine.path).name,
        "event": "store_damaged",
        "found": store.quarantine.reason,
        "lost": store.lost_packs,
        "saved": store.saved_packs,
    }


def _checker(store: Store) -> Callable[[bytes], bool]:
    """Has a pack the signature of one of our keys? A pack of a key that is not known any more is let be."""
    from agent.verify.jws import TYP_PACK, check_signature, public_key
    from agent.verify.strict import Refused

    keys = {}
    for chain in store.key_chains():
        for record in json.loads(chain)["records"]:
            key = public_key(record.get("alg"), record.get("jwk"))
            keys[key.kid] = key

    def holds(data: bytes) -> bool:
        start = data.rfind(b',"sig":"')
        end = data.find(b'"', start + 8)
        if start < 0 or end < 0:
            return False
        try:
            check_signature(data[start + 8 : end].decode("ascii"), data[:start] + data[end + 1 :], TYP_PACK, keys)
        except UnicodeDecodeError:
            return False
        except Refused as error:
            return error.code == "kid"
        return True

    return holds
