"""The active signing key, and the watcher of its file, which activates a successor key without a restart.

The database thread switches keys between two calls that seal, so that all streams change keys at the same boundary. The
key records of the new key are committed and published before its first pack.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

from agent.clock import sleep_to_multiple
from agent.keys import TYP_PACK, Signer, current_records, is_sound, load_key
from agent.service.db_thread import DatabaseThread
from agent.store import Store, StoreError
from drivers.backoff import Backoff
from drivers.model import GatewayError

log = logging.getLogger("meterhouse")
LOOK_S = 2.0  # interval of the checks of the key file; a check needs only one stat call
# the longest pause between two attempts with a busy token: some tokens report a wrong PIN as a general error, and lock
# themselves after a few wrong PINs
TOKEN_MOST_S = 3600.0


class ActiveKey:
    """The key in use. Only the database thread signs with it, and only this thread changes it."""

    def __init__(self, signer: Signer, gateway: str) -> None:
        self.signer, self._gateway = signer, gateway
        self._sign = signer.signer(TYP_PACK)
        self.records = b""  # the ``keys`` object; its last record is that of this key

    def sign(self, payload: bytes) -> str:
        """Sign the payload of a pack. Returns a detached JWS."""
        return self._sign(payload)

    def activate(self, store: Store, signer: Signer | None = None) -> bytes:
        """Store the records of a key, and sign with it from now on. ``signer`` None: the key that ``__init__`` got.

        Returns:
            The ``keys`` object to publish. Its bytes change only if the key changes.

        Raises:
            KeyFileError: the key is not a successor of the previous key; nothing has changed.
        """
        signer = signer or self.signer
        data = self.records_of(store, signer)
        store.keys.add(json.loads(data)["counter"], data)
        self.switch(signer, data)
        return data

    def records_of(self, store: Store, signer: Signer) -> bytes:
        """Return the ``keys`` object that ends with this key.

        Raises KeyFileError if the key is not a valid successor.
        """
        while (kept := store.keys.newest()) is not None and not is_sound(kept[1]):
            log.error(
                "the key records with counter %d in the store do not match their signature; the agent deleted them",
                kept[0],
            )
            store.keys.delete(kept[0])
        return current_records(signer, self._gateway, kept[1] if kept else None)

    def switch(self, signer: Signer, records: bytes) -> None:
        """Sign with this key from now on. Its records must be durable already."""
        self.signer, self._sign, self.records = signer, signer.signer(TYP_PACK), records


@dataclass(frozen=True, slots=True)
class PreparedKey:
    """A key that was loaded from a file.

    ``signer`` is None if this key is already active. Otherwise ``records`` is the ``keys`` object that ends with this
    key.
    """

    path: Path
    stamp: tuple[int, int, int] | None
    signer: Signer | None = None
    records: bytes = b""

    @property
    def counter(self) -> int:
        """The counter of the key records."""
        return int(json.loads(self.records)["counter"])


class KeyFileWatcher:
    """Checks whether the key file has changed. Used only in the loop.

    Args:
        path: the configured key file.
        publish: called in the database thread with a new ``keys`` object, before the new key signs anything.
        note: adds an event to the gateway's stream.
        after: called after each change of the key. It makes a checkpoint, which shows where the new key began.
    """

    def __init__(
        self,
        active_key: ActiveKey,
        path: Path,
        db_thread: DatabaseThread,
        publish: Callable[[bytes], object],
        note: Callable[[Mapping[str, Any]], object],
        after: Callable[[], Awaitable[object]],
    ) -> None:
        self._active_key, self.path, self._db_thread = active_key, path, db_thread
        self._publish, self._note, self._after = publish, note, after
        self._stamp = _stamp(path)
        self._token_backoff = Backoff(LOOK_S, TOKEN_MOST_S)
        self._rests: tuple[tuple[int, int, int], float] | None = None  # (stamp of the file, end of its pause)
        self._lock = asyncio.Lock()
        self._trouble, self._missing = "", False
        self.last_unused_hold_s = -math.inf  # monotonic time when a tool last paused sealing but made no key

    @property
    def kid(self) -> str:
        """The thumbprint of the key in use."""
        return self._active_key.signer.kid

    @property
    def trouble(self) -> str:
        """Why a restarted agent would be unable to use the key file; "" if the file is usable."""
        return self._trouble or (f"{self.path}: the key file is missing" if self._missing else "")

    async def run(self) -> None:
        """Check the file every two seconds, until cancelled."""
        while True:
            await self.check()
            await sleep_to_multiple(LOOK_S)

    def locked(self) -> asyncio.Lock:
        """Return a lock. While it is held (``async with``), only ``activate`` can change the key."""
        return self._lock

    async def prepare(self, path: Path) -> PreparedKey:
        """Load the key in a file, for ``activate``. Raises GatewayError."""
        stamp = _stamp(path)
        signer = await asyncio.to_thread(load_key, path)  # in another thread, because a hardware token may be slow
        if signer.kid == self.kid:
            return PreparedKey(path, stamp)
        records = await self._db_thread.call(lambda store: self._active_key.records_of(store, signer))
        return PreparedKey(path, stamp, signer, records)

    async def activate(self, key: PreparedKey) -> None:
        """Sign with a prepared key from now on. Its records must be durable already. Call ``log_change`` afterwards."""

        def switch(store: Store) -> None:
            if key.signer is not None:
                self._publish(key.records)
                self._active_key.switch(key.signer, key.records)

        await self._db_thread.call(switch)
        self.path, self._stamp, self._trouble = key.path, key.stamp, ""

    async def check(self) -> None:
        """Activate the key in the file if the file has changed. After an error the active key stays in use."""
        async with self._lock:
            stamp = _stamp(self.path)
            if stamp is None:
                if not self._missing:
                    log.error("keeping the current signing key: %s: the key file is missing", self.path)
                self._missing = True
                return
            self._missing = False
            if stamp == self._stamp or (self._rests and stamp == self._rests[0] and monotonic() < self._rests[1]):
                return
            if not self._rests or stamp != self._rests[0]:
                self._token_backoff.reset()
            self._rests = None
            try:
                await self._change(self.path)
            except GatewayError as error:
                if str(error) != self._trouble:
                    log.error("keeping the current signing key: %s", error)
                self._trouble = str(error)
                # the file may be usable, so a later check tries again
                if isinstance(error, StoreError):
                    return
                if error.retry:
                    self._rests = stamp, monotonic() + self._token_backoff.next_s()
                    return
            self._stamp = stamp

    async def _change(self, path: Path) -> None:
        key, before = await self.prepare(path), self.kid
        self._trouble = ""
        if (signer := key.signer) is None:
            return

        def take_up(store: Store) -> None:
            self._publish(self._active_key.activate(store, signer))

        await self._db_thread.call(take_up)
        await self.log_change(before)

    async def log_change(self, before: str) -> None:
        """Log and record the change of key.

        ``before``: thumbprint of the previous key. If this key is still in use, nothing is done.
        """
        if self.kid == before:
            return
        counter = json.loads(self._active_key.records)["counter"]
        self._note({"counter": counter, "event": "key", "new": self.kid, "old": before})
        log.warning("signing key changed from %s to %s", before, self.kid)
        await self._after()


def _stamp(path: Path) -> tuple[int, int, int] | None:
    """Return a value that changes if the file changes. None: the file does not exist."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_ctime_ns
