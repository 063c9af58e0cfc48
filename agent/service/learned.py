"""What devices taught their drivers about their maps, kept over restarts: for one profile, identity and firmware.

Learning costs requests that fail, twice each, so it is not done anew at every start (field pains 24, 30, 40).
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, Protocol, runtime_checkable

from agent.service.db_thread import DatabaseThread
from agent.service.roster import Device
from agent.store import Store
from drivers.model import GatewayError
from drivers.plan import KnownHoles, holes_key

log = logging.getLogger("meterhouse")


@runtime_checkable
class LearnsMap(Protocol):
    """A driver that learns."""

    holes: KnownHoles


class MapQuirks:
    """The lessons of all devices. Only the loop touches it.

    Args:
        rows: by stream, (facts, lessons) as the store has them.
    """

    def __init__(self, writer: DatabaseThread, rows: Mapping[str, tuple[bytes | None, bytes | None]]) -> None:
        self._writer = writer
        self._kept: dict[str, dict[str, Any]] = {}
        for stream, (_, lessons) in rows.items():
            if lessons is not None and (said := _decoded(lessons)) is not None:
                self._kept[stream] = said

    def teach(self, unit: Device, driver: object, profile_hash: str, identity: Mapping[str, str | None]) -> None:
        """Give a driver what its device taught us before; another identity, firmware or profile starts afresh."""
        if not isinstance(driver, LearnsMap):
            return
        known = {name: text for name, text in identity.items() if text is not None}
        firmware = known.pop("device.firmware", None)
        key = holes_key(profile_hash, known, firmware)
        if driver.holes.key == key:
            return
        stream = unit.stream.name
        holes = KnownHoles.from_json(self._kept.get(stream, {}), key, _now_s())
        if summary := holes.summary():
            log.info("%s: known of its map from before: %s", unit.config.name, summary)
        elif not driver.holes.key:  # what it learned while it was being met is about this very device
            driver.holes.key = key
            return
        driver.holes = holes

    async def keep(self, units: Iterable[Device]) -> None:
        """Make durable what was learned or forgotten since."""
        for unit in units:
            driver, stream = unit.poll.driver, unit.stream.name
            if not isinstance(driver, LearnsMap) or not driver.holes.key:
                continue
            driver.holes.expire(_now_s())
            said = driver.holes.to_json()
            old = self._kept.get(stream)
            if said == old or (old is None and not driver.holes.summary()):
                continue
            text = json.dumps(said, separators=(",", ":")).encode() if driver.holes.summary() else None
            try:
                await self._writer.call(partial(_keep, stream, text))
            except GatewayError as error:
                log.warning("%s: what was learned of its map is not kept: %s", unit.config.name, error)
                continue
            if text is None:
                self._kept.pop(stream, None)
            else:
                self._kept[stream] = said


def _keep(stream: str, text: bytes | None, store: Store) -> None:
    store.keep_learned(stream, text)


def lessons_of(driver: object) -> str:
    """One line for a technician; "" where nothing was learned."""
    return driver.holes.summary() if isinstance(driver, LearnsMap) else ""


def _decoded(text: bytes) -> dict[str, Any] | None:
    try:
        said = json.loads(text)
    except ValueError:
        return None
    return said if isinstance(said, dict) else None


def _now_s() -> int:
    return time.time_ns() // 1_000_000_000
