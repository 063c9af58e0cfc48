"""The current state for the page: snapshot and newest value of each point. All viewers share one copy of this state."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from shutil import disk_usage
from typing import TYPE_CHECKING, Any, Final

from agent.cli.common import NoAgent, is_alive, read_snapshot
from agent.cli.findings import STALE_S, Finding, find
from agent.config import load_labels
from drivers.model import ConfigError, GatewayError

if TYPE_CHECKING:
    from agent.cli.ring_follower import Follower, Latest

FRESH_S: Final = 1.0  # a state is reused for this long, so many viewers cause no more reads than one viewer
CONFIG_EVERY_S: Final = 60.0  # the configuration files are checked for errors once in this time
IDLE_EVERY_S: Final = (
    20.0  # without viewers, the ring is read once in this time, so that the next viewer waits only briefly
)


@dataclass(frozen=True, slots=True)
class Moment:
    """The state at one moment. Each new state is a new object.

    ``error``: why the current state of the agent cannot be shown; None if it can. With an error, the other members hold
    the last known state, if there is one.
    """

    number: int = 0  # grows with each new state
    time: float = 0.0
    snapshot: Mapping[str, Any] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()
    points: Mapping[str, tuple[Latest, ...]] = field(default_factory=dict)  # device name -> its newest values
    error: GatewayError | None = None
    catching_up: bool = False  # True: the ring is still being read from its oldest record on
    gone: bool = False  # True: the agent was killed, so its snapshot exists, but its process does not

    @property
    def stopped(self) -> bool:
        """True if no agent is running. The states and values are then outdated."""
        return self.gone or self.error is not None

    @property
    def age_s(self) -> float:
        """Age of the snapshot in seconds. It grows while the agent hangs, because no new snapshot is written."""
        return self.time - float(self.snapshot.get("time") or self.time)

    @property
    def outdated(self) -> bool:
        """True if the states of the snapshot are not current, because the agent has stopped or hangs."""
        return self.stopped or self.age_s > STALE_S

    @property
    def notice(self) -> str:
        """Key of the label for the notice at the top of every page; "" if there is no notice."""
        if self.gone or isinstance(self.error, NoAgent):
            return "kept"
        if self.error is not None:
            return "verdict.unseen"
        return "hangs" if self.outdated else ""


class LiveData:
    """Reads the runtime directory of an agent: at most once a second while there are viewers, and rarely otherwise."""

    def __init__(
        self, runtime_dir: Path, config_file: Path | None = None, labels: Mapping[str, str] | None = None
    ) -> None:
        self._folder = runtime_dir
        self.labels: Mapping[str, str] = labels or {}  # the devices' labels by name
        self._loaded: object = None  # time at which the agent loaded the configuration from which ``labels`` was read
        self._config_file = config_file
        self._complaints: tuple[str, ...] = ()
        self._checked_at = -1e9
        self._follower: Follower | None = None
        self._boot: object = None
        self._lock = asyncio.Lock()
        self._reading = threading.RLock()  # a ring must not be unmapped while it is read
        self._read_at = -1e9
        self._caught_up = False
        self.moment = Moment()

    @property
    def folder(self) -> Path:
        """The runtime directory."""
        return self._folder

    async def now(self) -> Moment:
        """Return the current state, at most a second old.

        The state is incomplete while a long ring is read for the first time.
        """
        if self._lock.locked() and self.moment.number and not self._caught_up:
            return self.moment
        async with self._lock:
            if time.monotonic() - self._read_at >= FRESH_S:
                self.moment = await asyncio.to_thread(self._read)
                self._read_at = time.monotonic()
        return self.moment

    @contextlib.asynccontextmanager
    async def following(self) -> AsyncIterator[None]:
        """Follow the ring slowly while the context is open, even without viewers."""

        async def follow() -> None:
            while True:
                await self.now()
                await asyncio.sleep(IDLE_EVERY_S)

        task = asyncio.create_task(follow())
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            self.close()

    def close(self) -> None:
        """Unmap the ring."""
        with self._reading:
            follower, self._follower = self._follower, None
            if follower is not None:
                follower.ring.close()

    def _read(self) -> Moment:
        with self._reading:
            return self._look()

    def _look(self) -> Moment:
        before, now = self.moment, time.time()
        try:
            snapshot = read_snapshot(self._folder)
        # the agent has stopped: still show the devices of the last snapshot, but no values
        except GatewayError as error:
            self.close()
            return Moment(before.number + 1, now, before.snapshot, (), {}, error)
        self._follow_labels(snapshot)
        alive = is_alive(snapshot.get("pid"))
        findings = tuple(find(snapshot, now, alive, self._on_disk(), disk_usage(self._folder).free))
        # the agent was killed: do not show its last values, and leave its ring to the next start of the agent
        if not alive:
            self.close()
            return Moment(before.number + 1, now, snapshot, findings, gone=True)
        try:
            self._follow(snapshot)
        except GatewayError as error:
            self.close()
            return Moment(self.moment.number + 1, now, snapshot, findings, {}, error)
        self._caught_up = True
        # not ``before``: while the ring was read, viewers may have got an incomplete state, whose page is kept
        return Moment(self.moment.number + 1, now, snapshot, findings, self._points())

    def _follow_labels(self, snapshot: Mapping[str, Any]) -> None:
        """Read the labels again after a reload or a restart. If the files have errors now, the previous labels stay."""
        loaded = (snapshot.get("config") or {}).get("loaded")
        if self._config_file is None or loaded == self._loaded:
            return
        self._loaded = loaded
        with contextlib.suppress(GatewayError):
            self.labels = load_labels(self._config_file)

    def _on_disk(self) -> tuple[str, ...]:
        """Return the errors in the configuration files as `status` words them.

        Checks the files at most once a minute.
        """
        if self._config_file is not None and time.monotonic() - self._checked_at >= CONFIG_EVERY_S:
            from agent.cli.options import ConfigOptions, faults_of_files

            self._checked_at = time.monotonic()
            try:
                ConfigOptions(self._config_file).load()
                self._complaints = ()
            except ConfigError as error:
                self._complaints = tuple(map(str, faults_of_files(error)))
            except GatewayError:
                self._complaints = ()
        return self._complaints

    def _follow(self, snapshot: Mapping[str, Any]) -> None:
        from agent.cli.ring_follower import Follower

        follower = self._follower
        if follower is None or snapshot.get("ring") != self.moment.snapshot.get("ring"):
            self.close()
            self._caught_up = False
            follower = self._follower = Follower.open(self._folder, snapshot)
            found = find(snapshot, time.time(), is_alive(snapshot.get("pid")))
            self.moment = Moment(
                self.moment.number + 1, time.time(), snapshot, tuple(found), self._points(), catching_up=True
            )
        else:
            follower.learn(snapshot)
        for _ in follower.follow():
            pass
        follower.ring.trim()

    def _points(self) -> dict[str, tuple[Latest, ...]]:
        """Return a copy of the newest values by device, in the order of the point tables.

        A copy is needed, because the follower of the ring changes the original while pages are rendered.
        """
        from dataclasses import replace

        found: dict[str, list[Latest]] = {}
        for latest in self._follower.latest.values() if self._follower is not None else ():
            found.setdefault(latest.point.device, []).append(replace(latest))
        return {device: tuple(points) for device, points in found.items()}
