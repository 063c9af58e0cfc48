"""Brokers, listeners, stores and uplinks that end with the test."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from agent.settings import UplinkConfig
from agent.uplink import Uplink
from tests.kits.broker import free_port
from tests.kits.delivery import Listener, Mosquitto, StoreOutbox
from tests.kits.fake_broker import FakeBroker

HOUR_MS = 3_600_000  # the pack interval: however slow the machine, no pack of a test becomes backlog by waiting


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Callable[..., Mosquitto]]:
    """``broker(*config lines)`` starts one; all are ended by their process ids."""
    if not shutil.which("mosquitto"):
        pytest.skip("no mosquitto here: apt-get install mosquitto")
    made: list[Mosquitto] = []

    def start(*lines: str, port: int = 0) -> Mosquitto:
        made.append(Mosquitto(tmp_path, port or free_port(), *lines))
        return made[-1].start()

    yield start
    for one in made:
        one.stop()


@pytest.fixture
def listen() -> Iterator[Callable[..., Listener]]:
    made: list[Listener] = []

    def start(port: int, *args: Any, **more: Any) -> Listener:
        made.append(Listener(port, *args, **more))
        return made[-1]

    yield start
    for one in made:
        one.close()


@pytest.fixture
def outbox() -> Iterator[Callable[..., StoreOutbox]]:
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # what is tested here is not the disk
    with tempfile.TemporaryDirectory(prefix="mh-test-", dir=memory) as folder:
        made: list[StoreOutbox] = []

        def start(*destinations: str, asked: Mapping[str, Sequence[str]] | None = None) -> StoreOutbox:
            path = Path(folder) / f"{len(made)}" / "store.db"
            made.append(StoreOutbox(path, destinations or ("platform",), asked))
            return made[-1]

        yield start
        for one in made:
            one.close()


@pytest.fixture
def uplink(
    broker: Callable[..., Mosquitto], fake: Callable[..., FakeBroker], outbox: Callable[..., StoreOutbox]
) -> Iterator[Callable[..., Uplink]]:
    """``uplink(outbox, destination(...))``, started and at the end stopped."""
    made: list[Uplink] = []

    def start(at: StoreOutbox, to: UplinkConfig, **more: Any) -> Uplink:
        settings = {"keys": b'{"v":1}', "version": "0.1", "pack_every_ms": HOUR_MS, "retry_s": 0.05, **more}
        one = Uplink(to, site="park7", gateway="gw01", outbox=at, **settings)
        at.uplinks.append(one)
        made.append(one)
        one.start()
        return one

    yield start
    for one in made:
        one.stop(1.0)


@pytest.fixture
def fake() -> Iterator[Callable[..., FakeBroker]]:
    """``fake(answer=...)`` starts a broker that misbehaves."""
    made: list[FakeBroker] = []

    def start(**more: Any) -> FakeBroker:
        made.append(FakeBroker(**more))
        return made[-1]

    yield start
    for one in made:
        one.close()
