"""A reload that is refused, for whatever reason and at whichever step, changes nothing in the agent that runs.

One agent lives through all of it in this process: with a real database, simulated devices, and files that are edited.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from agent.config import load_config
from agent.keys import create_key
from agent.poll import DevicePoll
from agent.service import devices as devices_module
from agent.service.app import FIRST_SWITCH_S, SWITCH_S, Service
from agent.service.births import DeviceCatalog
from agent.service.db_thread import DatabaseThread
from agent.service.devices import DeviceManager
from agent.service.reload import ReloadOutcome
from agent.service.results.publisher import ResultPublisher
from agent.service.seal_jobs import Stream
from agent.service.sealing import SealScheduler
from agent.service.signing_key import KeyFileWatcher
from agent.service.status import status
from agent.store import Store, StoreFull
from agent.store.documents import Documents, KeyTable
from agent.store.packs import PackTable
from agent.uplink import Uplink
from drivers.line import Line
from drivers.model import ConfigError, GatewayError
from drivers.registry import driver_class
from drivers.sim.bus import Bus
from drivers.sim.tcp import TcpLine
from tests.kits.house import HERE, Meter, free_port

DEEP = "schema = " + "[" * 3000
ODD = """schema = 1
vendor = "Test"
models = ["Odd"]
kind = "heat"
protocol = "mbus"
source = "a test"
evidence = "derived"
[[point]]
name = "heat.energy"
key = "Energy!"
type = "record"
unit = "kWh"
pace = "slow"
[[sample]]
name = "none"
frames = { readout = "" }
expect = { "heat.energy" = 1 }
"""
METER = '\n[[device]]\nname = "new"\nline = "{}"\naddress = "{}"\nprofile = "{}"\n'
EXPECTED_LEFT = {"snapshot.json", "metrics.prom"}  # written anew all the time


class Park:
    """The files of one agent, the agent, and what it looks like from inside."""

    def __init__(self, folder: Path, roof: TcpLine, hall: TcpLine, yard: TcpLine) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        shutil.copytree(HERE / "profiles", folder / "profiles")
        (folder / "state").mkdir()
        create_key(folder / "state/signing.key", int(time.time()) - 10)
        create_key(folder / "other.key", int(time.time()) - 5)
        (folder / "plan.toml").write_text('schema = 1\nsets = ["plain"]\n')
        self.broker = f"mqtt://127.0.0.1:{free_port()}"
        self.roof, self.hall, self.yard = roof.url, hall.url, yard.url
        self.good = (
            '[site]\nid = "park7"\ngateway = "gw01"\ntimezone = "Asia/Shanghai"\n'
            '\n[paths]\nprofiles_dir = "profiles"\nstate_dir = "state"\nruntime_dir = "run"\n'
            '\n[pack]\nevery = "1 s"\n\n[store]\nmax_size = "32 MiB"\n'
            f'\n[[uplink]]\nname = "platform"\nurl = "{self.broker}"\n'
            f'\n[[line]]\nname = "roof"\nurl = "{self.roof}"\n'
            f'\n[[line]]\nname = "hall"\nurl = "{self.hall}"\n'
            f'\n[[line]]\nname = "server"\nurl = "tcp://127.0.0.1:{free_port()}"\n'
        ) + "".join(
            f'\n[[device]]\nname = "{name}"\nline = "{line}"\naddress = "{device}"\nprofile = "test/tally"\n'
            f'every = {{ fast = "200 ms", normal = "1 s", slow = "2 s" }}\nlabel = "first"\n'
            for name, line, device in (("w", "roof", 1), ("gone", "roof", 2), ("moves", "roof", 5), ("x", "hall", 3))
        )
        self.write(self.good)
        self.service = Service(self.load(), self._ready, self.load)
        self.serving = asyncio.Event()

    def _ready(self) -> None:
        self.serving.set()

    def load(self) -> Any:
        return load_config(self.folder / "agent.toml", environ={})

    def write(self, text: str) -> None:
        (self.folder / "agent.toml").write_text(text)

    def edited(self, *edits: tuple[str, str], more: str = "") -> str:
        """The good configuration with other places, each of which must be there."""
        text = self.good
        for old, new in edits:
            assert old in text, old
            text = text.replace(old, new, 1)
        return text + more

    def large(self) -> str:
        """A sound configuration in which nearly everything is another."""
        return self.edited(
            ('every = { fast = "200 ms"', 'every = { fast = "400 ms"'),
            ('label = "first"', 'label = "second"'),
            ('name = "gone"', 'name = "come"'),
            (f'url = "{self.hall}"', f'url = "{self.hall}"\nlimits = {{ timeout = "2 s", connect_delay = "10 ms" }}'),
            ('name = "moves"\nline = "roof"', 'name = "moves"\nline = "hall"'),
            ("[pack]\nevery", "[pack]\nmax_size = '32 KiB'\nevery"),
            ('max_size = "32 MiB"', 'max_size = "48 MiB"'),
            ("[store]\n", '[store]\nkeep_intervals = "300 d"\n'),
            ('name = "platform"', 'name = "platform"\nin_flight = 5'),
            more=f'\n[indicators]\nplan = "plan.toml"\n\n[[line]]\nname = "yard"\nurl = "{self.yard}"\n'
            + METER.format("yard", 4, "test/tally"),
        )

    async def reload(self, text: str) -> ReloadOutcome:
        self.write(text)
        return await asyncio.wait_for(self.service.reload(), 60)

    async def picture(self) -> dict[str, Any]:
        """All that a configuration shapes, as objects where another object would be a change."""
        service = self.service
        manager, publisher = service.device_manager, service.publisher
        await until(lambda: all(device.identity is not None and device.stream.packs for device in service.devices))
        async with manager.lock:
            found: dict[str, Any] = {
                "config": (service.config, service.config.hash(), service.loaded_ms),
                "catalog": id(manager.catalog),
                "devices": {
                    device.config.name: (
                        id(device), device.config, id(device.catalog), id(device.line),
                        id(device.stream), id(device.poll.driver),
                        device.poll.driver.table, device.poll.driver.spec, tuple(device.poll.periods),
                        device.poll.paused, dict(device.identity or {}),
                        [(s.number, id(s.table)) for s in device.stream.table_versions],
                    )
                    for device in service.devices
                },
                "order": [device.config.name for device in service.devices],
                "lines": {
                    name: (id(line), line.config, line._connect_delay_s, line._connections, line.is_open)
                    for name, line in service.lines.items()
                },
                "pollers": {name: id(poller) for name, poller in manager.pollers.items()},
                "sealing": (sorted(service.sealing.streams), service.sealing.every_ms, service.sealing.removed),
                "packs": {name: packer._max for name, packer in service.packers.items()},
                "intervals": (id(publisher.builder), [id(producer) for producer in publisher.producers]),
                "results": id(publisher.packer and publisher.packer.table),
                "gateway": [(shape.number, id(shape.table)) for shape in service.gateway.table_versions],
                "uplinks": [(id(uplink), uplink.config) for uplink in service.uplinks],
                "key": (service.key_watcher.kid, service.active_key.records, service.key_watcher.path),
                "snapshot": {
                    "devices": sorted(status(service)["devices"]), "lines": sorted(status(service)["lines"]),
                    "hash": status(service)["config"]["hash"], "loaded": status(service)["config"]["loaded"],
                },
                "threads": sorted(
                    thread.name for thread in threading.enumerate() if not thread.name.startswith("asyncio")
                ),
                "descriptors": descriptors(self.folder),
                "files": {
                    path.name: path.stat().st_ino
                    for path in sorted((self.folder / "run").iterdir())
                    if path.name not in EXPECTED_LEFT and path.suffix != ".new"
                },
            }  # fmt: skip
        found["store"] = await service.db_thread.call(self._in_store)
        return found

    def _in_store(self, store: Store) -> dict[str, Any]:
        return {
            "tables": {
                number: table.stream
                for number, table in store.documents.tables(self.service.device_manager.ring.ring_id).items()
            },
            "bounds": (
                store.retention.max_size_bytes,
                store.retention.keep_delivered_ms,
                store.retention.page_limit,
                tuple(store.packs.destinations),
            ),
            "destinations": store.db.execute("SELECT id, name FROM destinations ORDER BY id").fetchall(),
            "keys": store.keys.newest(),
            "reserve": store.retention.reserve.held_bytes,
        }


def descriptors(folder: Path) -> list[str]:
    """What is open in the agent's folder, and what has no path, but for sockets, as uplinks try again and again.

    Other files are of Python and the system: a thread that imports a module has it open for a moment.
    """
    found = []
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the one that lists them
            found.append(os.readlink(f"/proc/self/fd/{fd}"))
    mine = [name for name in found if name.startswith(f"{folder}/") or not name.startswith(("/", "socket:"))]
    return sorted(name.partition("[")[0] for name in mine)


async def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        await asyncio.sleep(0.01)


@asynccontextmanager
async def running(folder: Path) -> AsyncIterator[Park]:
    lines = [TcpLine(Bus([Meter(n).sim for n in units]), port=free_port()) for units in ((1, 2, 5), (3, 5), (4,))]
    for line in lines:
        await line.start()
    park = Park(folder, *lines)
    stop = asyncio.Event()
    run = asyncio.create_task(park.service.run(stop))
    try:
        await asyncio.wait({run, asyncio.create_task(park.serving.wait())}, return_when=asyncio.FIRST_COMPLETED)
        if run.done():
            await run
        yield park
        assert not run.done(), "the agent runs on"
    finally:
        stop.set()
        try:
            await run
        finally:
            for line in lines:
                await line.stop()


def different(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    return {key: (before[key], after[key]) for key in before if before[key] != after[key]}


def refused_edits(park: Park) -> dict[str, tuple[str, str]]:
    """What is written, and what the complaint must say. Each changes much that is right, too."""
    big, edited = park.large(), park.edited
    label = ('label = "first"', 'label = "second"')
    period = ('fast = "200 ms"', 'fast = "400 ms"')
    profiles = park.folder / "profiles/test"
    (profiles / "deep.toml").write_text(DEEP)
    (profiles / "odd.toml").write_text(ODD)
    (profiles / "bad.toml").write_text((profiles / "tally.toml").read_text().replace('unit = "W"', 'unit = "furlong"'))
    (park.folder / "deep-plan.toml").write_text(DEEP)
    return {
        "another period and label, and a device whose address cannot be": (
            edited(label, period, more=METER.format("server", "BCDEF", "cjt188/water")),
            r'agent\.toml:\d+: device\.new\.address: "BCDEF" is not a CJ/T 188 address',
        ),
        "an M-Bus address out of range": (
            edited(label, more=METER.format("server", "999", "mbus/heat")), '"999" is not an M-Bus address',
        ),
        "a meter on modbus-tcp": (
            edited(label, more=METER.format("roof", "161", "dlt645/2007")), "cannot be used over modbus-tcp",
        ),
        "a device that its driver cannot serve": (
            big + METER.format("server", "1", "test/odd").replace('"new"', '"odd"'),
            r"agent\.toml:\d+: device\.odd: test/odd: heat\.energy: key ",
        ),
        "two of them": (
            big + METER.format("server", "1", "test/odd").replace('"new"', '"odd"')
            + METER.format("server", "2", "test/odd").replace('"new"', '"even"'),
            r"device\.even: test/odd: heat\.energy: key ",
        ),
        "a profile that is nested too deep": (
            big.replace('profile = "test/tally"', 'profile = "test/deep"', 1), "brackets are nested too deep",
        ),
        "a profile that is wrong": (
            big.replace('profile = "test/tally"', 'profile = "test/bad"', 1), "furlong",
        ),
        "a profile that is not there": (
            big.replace('profile = "test/tally"', 'profile = "test/none"', 1), "test/none",
        ),
        "a line that is not there": (big.replace('line = "roof"', 'line = "rof"', 1), 'Did you mean "roof"'),
        "no TOML": (big.replace("[site]", "[site"), r"agent\.toml:1"),
        "brackets without end": (big + "x = " + "[" * 3000, "nested too deep"),
        "another site": (
            big.replace('id = "park7"', 'id = "park8"'), r"agent\.toml:2: site\.id: this setting can only change at",
        ),
        "another state directory": (
            big.replace('"state"', '"elsewhere"'), r"paths\.state_dir: this setting can only change at",
        ),
        "another gap between readings": (
            big + '\n[interval]\nmax_gap = "4 min"\n',
            r"agent\.toml:\d+: interval\.max_gap: this setting can only change at",
        ),
        "a key that is not there": (big + '\n[key]\nfile = "none.key"\n', "none.key"),
        "a key that does not follow": (big + '\n[key]\nfile = "other.key"\n', "the newest recorded key is"),
        "a credential that systemd does not give": (
            big + '\n[key]\ncredential = "nowhere"\n', "systemd did not provide this credential",
        ),
        "a plan that is nested too deep": (big.replace("plan.toml", "deep-plan.toml"), "nested too deep"),
        "a plan that is not there": (big.replace("plan.toml", "no-plan.toml"), "no-plan.toml cannot be read"),
        "a name twice": (big + METER.format("yard", 5, "test/tally"), '"new" is already used in '),
        "a destination without a scheme": (big.replace("mqtt://", "mqtttt://"), "uplink.platform.url"),
        "several at once": (
            big.replace('id = "park7"', 'id = "park8"') + '\n[key]\nfile = "other.key"\n'
            + METER.format("server", "1", "test/odd").replace('"new"', '"odd"'),
            "(?s)site.id.*(the newest recorded key is.*heat.energy|heat.energy.*the newest recorded key is)",
        ),
    }  # fmt: skip


async def test_a_refused_reload_changes_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It was half applied: other devices were exchanged, lines closed, and the key changed, before it was refused."""
    async with running(tmp_path) as park:
        edits = refused_edits(park)
        assert len(edits) >= 15
        before = await park.picture()
        for name, (text, says) in edits.items():
            caplog.clear()
            outcome = await park.reload(text)
            assert not outcome.accepted and not outcome.fault, name
            assert re.search(says, "\n".join(outcome.complaints)), (name, outcome.complaints)
            assert outcome.config == before["config"][1], name
            count = len(outcome.complaints)
            rejected = f"reload rejected, {count} error{'s' * (count != 1)}; the previous configuration stays in effect"
            assert rejected in caplog.messages, name
            assert all(f"reload: {complaint}" in caplog.messages for complaint in outcome.complaints), name
            assert status(park.service)["config"]["complaints"] == list(outcome.complaints), name
            assert different(before, await park.picture()) == {}, name
        fine = await park.reload(park.large())
        assert fine.accepted and "1 removed" in fine.changed and "1 new or changed" in fine.changed, fine
        after = await park.picture()
        assert after["snapshot"]["devices"] == ["come", "moves", "new", "w", "x"]
        assert after["config"][1] == fine.config != outcome.config
        assert status(park.service)["config"]["complaints"] == []


async def test_what_cannot_be_made_on_this_machine_changes_nothing(tmp_path: Path) -> None:
    """No room for the frames of a line, no more threads, a store that is full: found before anything is exchanged."""
    async with running(tmp_path) as park:
        before = await park.picture()
        for line in ("hall", "yard"):  # one whose settings change, and a new one with a new device
            draft = tmp_path / f"run/frames.{line}.new"
            draft.mkdir()
            outcome = await park.reload(park.large())
            draft.rmdir()
            (told,) = outcome.complaints
            assert re.search(rf"agent\.toml:\d+: line\.{line}: frame trace cannot be created", told)
            assert not outcome.fault and different(before, await park.picture()) == {}
        for kind, method, error, says in (
            (
                threading.Thread,
                "start",
                RuntimeError("can't start new thread"),
                r"uplink\.platform: the uplink cannot be started",
            ),
            (Documents, "register_tables", StoreFull("the disk is full", where="state"), "the disk is full"),
            (PackTable, "set_destinations", StoreFull("the disk is full", where="state"), "the disk is full"),
        ):
            with failing(kind, method, error, lambda *a: "uplink" in getattr(a[0], "name", "uplink")) as count:
                outcome = await park.reload(park.large())
            assert count() and not outcome.accepted, method
            assert re.search(says, "\n".join(outcome.complaints)), outcome.complaints
            assert different(before, await park.picture()) == {}, method


class failing:
    """A method that raises instead of doing its work, the first time that ``when`` says so."""

    def __init__(
        self, owner: Any, name: str, error: BaseException, when: Callable[..., bool] = lambda *a: True
    ) -> None:
        self.owner, self.name, self.error, self.when = owner, name, error, when
        self.real, self.count = getattr(owner, name), 0

    def __enter__(self) -> Callable[[], int]:
        real = self.real

        def fail(*args: Any, **named: Any) -> Any:
            if not self.count and self.when(*args):
                self.count += 1
                raise self.error
            return real(*args, **named)

        setattr(self.owner, self.name, fail)
        return lambda: self.count

    def __exit__(self, *rest: object) -> None:
        setattr(self.owner, self.name, self.real)


BEFORE: tuple[tuple[Any, str], ...] = (  # what makes things that are not in use yet
    (DeviceCatalog, "__init__"), (DeviceCatalog, "spec"), (DeviceCatalog, "table"), (DeviceCatalog, "gateway_table"),
    (DeviceCatalog, "results_table"), (DeviceManager, "make_line"), (DeviceManager, "make"),
    (driver_class("modbus"), "__init__"), (devices_module, "_prepare_swap"), (KeyFileWatcher, "prepare"),
    (ResultPublisher, "prepare"), (Uplink, "__init__"), (Uplink, "prepare"), (Documents, "register_tables"),
    (KeyTable, "add"), (PackTable, "set_destinations"), (Store, "change_limits"), (DatabaseThread, "reconfigure"),
)  # fmt: skip
AFTER: tuple[tuple[Any, str], ...] = (  # what exchanges them
    (devices_module, "_swap"), (DevicePoll, "pause"), (DevicePoll, "exchange"), (Stream, "switch_table"),
    (DeviceManager, "stop_poller"), (Line, "close"), (DeviceManager, "remove"), (DeviceManager, "add"),
    (DeviceManager, "cut_ms"), (DeviceManager, "start_pollers"), (SealScheduler, "remove"), (SealScheduler, "add"),
    (ResultPublisher, "reload"), (Uplink, "stop"), (DatabaseThread, "set_uplinks"), (Uplink, "start"),
    (KeyFileWatcher, "activate"),
)  # fmt: skip


def rotated(park: Park) -> str:
    """The large configuration with the next key in another file."""
    from agent.keys import load_key, rotate_key

    path = park.folder / "next.key"
    if not path.exists():
        shutil.copy(park.folder / "state/signing.key", path)
        rotate_key(path, "park7/gw01", int(time.time()))
        assert load_key(path).kid != park.service.key_watcher.kid
    return park.large() + '\n[key]\nfile = "next.key"\n'


async def test_a_fault_of_ours_while_it_is_prepared_changes_nothing(tmp_path: Path) -> None:
    """Any exception at any step, also one that nobody thought of: logged as a fault, and the agent runs on."""
    async with running(tmp_path) as park:
        text = rotated(park)
        before = await park.picture()
        for owner, name in BEFORE:
            for error in (RuntimeError("injected"), RecursionError("injected")):
                where = f"{getattr(owner, '__name__', owner)}.{name}"
                with failing(owner, name, error) as count:
                    outcome = await park.reload(text)
                assert count() == 1, where
                assert not outcome.accepted and different(before, await park.picture()) == {}, where
                if not outcome.complaints[0].startswith("agent.toml") and "cannot be started" not in str(outcome):
                    assert outcome.fault and f"internal error: {type(error).__name__}: injected" in str(outcome), where
        outcome = await park.reload(text)
        assert outcome.accepted, outcome
        assert (await park.picture())["key"][0] != before["key"][0]


def meaning(picture: dict[str, Any]) -> dict[str, Any]:
    """What a picture says without naming objects: drivers, births and connections may be new ones of the same kind."""
    return {
        "config": picture["config"],
        "devices": {name: (facts[1], facts[7], facts[8], facts[9]) for name, facts in picture["devices"].items()},
        "order": picture["order"],
        "lines": {name: facts[1] for name, facts in picture["lines"].items()},
        "sealing": picture["sealing"][:2],
        "packs": {
            name: most for name, most in picture["packs"].items() if name.rpartition("/")[2] in picture["devices"]
        },
        "uplinks": [destination for _, destination in picture["uplinks"]],
        "key": picture["key"],
        "snapshot": picture["snapshot"],
        "threads": picture["threads"],
        "files": sorted(picture["files"]),
        "bounds": picture["store"]["bounds"],
        "keys": picture["store"]["keys"],
    }


@pytest.mark.timeout(180)
@pytest.mark.parametrize("nth", [1, 2])
async def test_a_fault_of_ours_while_it_takes_effect_is_undone(tmp_path: Path, nth: int) -> None:
    """Half of the devices exchanged and then a fault: all is put back, and readings go on."""
    async with running(tmp_path) as park:
        text = rotated(park) if nth == 1 else park.large()
        before = await park.picture()
        for owner, name in AFTER:
            where, calls = f"{getattr(owner, '__name__', owner)}.{name}", [0]

            def when(*args: Any, calls: list[int] = calls) -> bool:
                calls[0] += 1
                return calls[0] == nth

            with failing(owner, name, RuntimeError("injected"), when) as count:
                outcome = await park.reload(text)
            if nth > 1 and not count():  # it is needed once only
                assert outcome.accepted and (await park.reload(park.good)).accepted, where
                before = await park.picture()
                continue
            assert count() == 1 and not outcome.accepted and outcome.fault, (where, outcome)
            await until(lambda: not park.service.sealing.removed)
            assert different(meaning(before), meaning(await park.picture())) == {}, where
        readings = {device.config.name: device.stream.readings for device in park.service.devices}
        await until(lambda: all(u.stream.readings > readings[u.config.name] for u in park.service.devices))
        with failing(SealScheduler, "add_event", RuntimeError("injected")) as count:
            assert (await park.reload(rotated(park))).accepted and count(), (
                "what cannot be told is in effect all the same"
            )


async def test_a_fault_that_cannot_be_undone_ends_the_agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of each configuration would go unnoticed for months; a start takes seconds and loses nothing."""

    async def fail(*args: object) -> None:
        raise RuntimeError("injected")

    with pytest.raises(BaseExceptionGroup) as caught:
        async with running(tmp_path) as park:
            monkeypatch.setattr(ResultPublisher, "reload", fail)
            with pytest.raises(asyncio.CancelledError):
                await park.reload(park.large())
    (error,) = caught.value.exceptions
    assert isinstance(error, GatewayError) and "so did the return to the previous configuration" in str(error)


async def test_threads_take_turns_often_only_while_first_packs_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path):
        await until(lambda: sys.getswitchinterval() == SWITCH_S)
        monkeypatch.setattr(SealScheduler, "first_packs_wait", True)  # as after a reload with new devices
        await until(lambda: sys.getswitchinterval() == FIRST_SWITCH_S)
        monkeypatch.undo()
        await until(lambda: sys.getswitchinterval() == SWITCH_S)


async def test_a_start_tells_what_a_reload_tells(tmp_path: Path) -> None:
    """All devices that their drivers cannot serve, each with its place; it was the first, without one."""
    async with running(tmp_path / "a") as park:
        (park.folder / "profiles/test/odd.toml").write_text(ODD)
        text = park.good
        for name, address in (("odd", 1), ("even", 2)):
            text += METER.format("server", address, "test/odd").replace('"new"', f'"{name}"')
        outcome = await park.reload(text)
        assert [complaint.split(": ")[1] for complaint in outcome.complaints] == ["device.odd", "device.even"]
    park.service = Service(park.load())
    with pytest.raises(ConfigError) as caught:
        await park.service.run(asyncio.Event())
    assert tuple(str(one) for one in caught.value.complaints) == outcome.complaints


async def test_a_trace_that_cannot_be_made_is_told_at_a_start_too(tmp_path: Path) -> None:
    """It was an internal error, with the request to send us the output."""
    async with running(tmp_path) as park:
        pass
    trace = park.folder / "run/frames.roof"
    trace.unlink(missing_ok=True)
    trace.mkdir()
    with pytest.raises(ConfigError, match=r"line\.roof: frame trace cannot be created .*: Is a directory"):
        await Service(park.load()).run(asyncio.Event())


async def test_reloads_that_come_together_have_one_outcome(tmp_path: Path) -> None:
    """Two tools and a signal: the files are read once after the last of them asked, and each is told."""
    async with running(tmp_path) as park:
        park.write(park.edited(('label = "first"', 'label = "second"')))
        first, second = park.service.reload(), park.service.reload()
        outcomes = await asyncio.gather(first, second)
        assert outcomes[0] is outcomes[1] and outcomes[0].accepted
        assert outcomes[0].as_json()["changed"].startswith("devices: 1 changed")
        assert outcomes[0].as_json()["ok"] and outcomes[0].config == park.service.config.hash()


async def test_an_unchanged_destination_takes_up_the_pack_interval_and_the_number_of_devices(tmp_path: Path) -> None:
    """The rate of its backlog and the age at which a pack is late follow from them, and it kept those of its start."""
    async with running(tmp_path) as park:
        (uplink,) = park.service.uplinks
        assert uplink._rates == (200.0, 1.0)
        meters = (METER.replace("new", f"new{n}").format("roof", 20 + n, "test/tally") for n in range(5))
        outcome = await park.reload(park.edited(more="".join(meters)))
        assert outcome.accepted, outcome
        assert uplink._rates == (25 * 10.0, 1.0)
        outcome = await park.reload(park.edited(('[pack]\nevery = "1 s"', '[pack]\nevery = "2 s"')))
        assert outcome.accepted, outcome
        assert park.service.uplinks == [uplink] and uplink._rates == (200.0, 2.0)


def busy_until_released(monkeypatch: pytest.MonkeyPatch, device: str) -> asyncio.Event:
    """From now on this device is idle only after the event that is returned."""
    released, pause = asyncio.Event(), DevicePoll.pause

    async def slow(poll: DevicePoll) -> None:
        await pause(poll)
        if poll.driver.spec.name == device:
            await released.wait()

    monkeypatch.setattr(DevicePoll, "pause", slow)
    return released


async def test_a_changed_line_does_not_wait_for_the_devices_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both were paused until the slower one was idle, so the faster one lost readings for nothing."""
    async with running(tmp_path) as park:
        before = dict(park.service.lines)
        released = busy_until_released(monkeypatch, "x")
        edits = [(f'url = "{url}"', f'url = "{url}"\nlimits = {{ timeout = "2 s" }}') for url in (park.roof, park.hall)]
        park.write(park.edited(*edits))
        reload = park.service.reload()
        await until(lambda: park.service.lines["roof"] is not before["roof"])
        devices = {device.config.name: device.poll for device in park.service.devices}
        assert park.service.lines["hall"] is before["hall"] and devices["x"].paused and not devices["w"].paused
        answers = park.service.lines["roof"].stats.answers
        await until(lambda: park.service.lines["roof"].stats.answers > answers)
        released.set()
        assert (await reload).accepted
        assert park.service.lines["hall"] is not before["hall"] and not devices["x"].paused


async def test_lines_that_exchange_their_ports_wait_for_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The faster one opened a port that the slower one still used."""
    async with running(tmp_path) as park:
        before = dict(park.service.lines)
        released = busy_until_released(monkeypatch, "x")
        park.write(park.edited((park.roof, "tcp://other"), (park.hall, park.roof), ("tcp://other", park.hall)))
        reload = park.service.reload()
        polls = [device.poll for device in park.service.devices]
        await until(
            lambda: park.service.lines["roof"] is not before["roof"] or all(poll.paused and poll.idle for poll in polls)
        )
        for _ in range(100):
            await asyncio.sleep(0)
        assert [park.service.lines[name] is before[name] for name in ("roof", "hall")] == [True, True]
        released.set()
        assert (await reload).accepted
        assert [park.service.lines[name].config.url for name in ("roof", "hall")] == [park.hall, park.roof]


async def test_an_agent_without_files_says_so(tmp_path: Path) -> None:
    async with running(tmp_path) as park:
        assert "no configuration files" in (await Service(park.service.config)._reloads.reload()).complaints[0]


async def test_a_device_identified_while_a_reload_is_under_way_is_identified_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The table that the reload prepared is that of the device as it was before."""
    async with running(tmp_path) as park:
        known = (await park.picture())["devices"]["w"]
        device = next(one for one in park.service.devices if one.config.name == "w")
        identity, pause = dict(device.identity or {}), DevicePoll.pause

        async def other_answers(poll: DevicePoll) -> None:
            if poll is device.poll:
                device.identity = {**identity, "serial": "another"}
            await pause(poll)

        monkeypatch.setattr(DevicePoll, "pause", other_answers)
        outcome = await park.reload(park.edited(('label = "first"', 'label = "second"')))
        assert outcome.accepted and device.config.label == "second"
        await until(lambda: device.identity is not None)
        assert device.identity == identity, "read from the device again"
        assert (await park.picture())["devices"]["w"][0] == known[0], "and it is the same device, still read"
