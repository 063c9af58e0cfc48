"""The devices and lines of a running agent: what follows from a reload in their births and events, and their stop."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

from agent.service.births import RunningDevice
from agent.store import Store
from drivers.line import Line
from tests.service.test_reload_refused import METER, Park, failing, running, until


def device_of(park: Park, name: str) -> RunningDevice:
    return next(device for device in park.service.devices if device.config.name == name)


async def packs_of(park: Park, stream: str) -> list[dict[str, Any]]:
    def read(store: Store) -> list[dict[str, Any]]:
        return [json.loads(pack.data) for pack in store.packs.after(stream, 0, 10**6)]

    return await park.service.db_thread.call(read)


async def test_another_ratio_by_a_reload_begins_a_new_epoch(tmp_path: Path) -> None:
    """The birth stated the new ratio under the old epoch, so readings before and after it were subtracted."""
    async with running(tmp_path) as park:
        named = park.edited(('profile = "test/tally"', 'profile = "test/named"'))
        assert (await park.reload(named)).accepted
        device, known = device_of(park, "w"), park.service.device_manager.catalog.known
        stream = device.stream.name
        await until(lambda: device.identity is not None and stream in known)
        steps = [known[stream]]
        for more in ("ratio = { ct = 80, pt = 1 }", "ratio = { ct = 80, pt = 1 }\nreversed = true"):
            text = named.replace('label = "first"', f'label = "first"\n{more}', 1)
            assert (await park.reload(text)).accepted
            await until(lambda: known[stream].epoch > steps[-1].epoch, 20)
            steps.append(known[stream])
        assert (await park.reload(text.replace("first", "second", 1))).accepted
        count = device.stream.packs
        # one job may seal two tables, up to a boundary before the last event
        await until(lambda: device.stream.packs > count + 1 and not device.stream.events)
        assert known[stream].epoch == steps[-1].epoch, "another label is no other epoch"
        packs = await packs_of(park, stream)
    events = [event for pack in packs for event in pack.get("events", ()) if event["event"] == "ratio"]
    assert [(event["new"]["ct"], event["new"]["reversed"], event["epoch"]) for event in events] == [
        (facts.ratio["ct"], facts.ratio["reversed"], facts.epoch) for facts in steps[1:]
    ]
    table: dict[str, Any] = {}
    for pack in packs:
        table = pack.get("table", table)
        if pack.get("e") and table["device"]["ratio"]["ct"] == "80":
            turned = bool(table["device"]["reversed"])
            assert table["epoch"] == steps[1 + turned].epoch, "no reading of another ratio under the old epoch"


async def test_a_birth_states_the_derived_heat_of_a_reload(tmp_path: Path) -> None:
    """It stated the heat of the start until the next start, while the intervals already had the heat of the reload."""
    meter = METER.format("server", "12345678901234", "cjt188/heat").replace('"new"', '"heat"')
    heat = (
        '\n[[derived]]\nname = "loop"\nheat = { device = "heat", flow = "heat.flow", '
        'supply = "heat.temperature.supply", return = "heat.temperature.return" }\nrole = "heat.load"\n'
    )
    async with running(tmp_path) as park:
        outcome = await park.reload(park.good + meter)
        assert outcome.accepted, outcome
        device = device_of(park, "heat")

        def stated() -> list[str]:
            table = json.loads(device.stream.table_version.table.encoded)
            return [row["heat"]["supply"] for row in table["device"].get("derived", ())]

        for text, supply in (
            (heat, ["heat.temperature.supply"]),
            (heat.replace("temperature.supply", "temperature.return", 1), ["heat.temperature.return"]),
            ("", []),
        ):
            outcome = await park.reload(park.good + meter + text)
            assert outcome.accepted and stated() == supply, outcome
            assert [change.kind for change in outcome.changes] == ["derived"]
            assert outcome.changed.startswith("devices: 1 changed"), outcome


async def test_a_device_whose_variant_cannot_be_read_costs_only_itself(tmp_path: Path) -> None:
    """The agent ended, and ended again at each start, because one value of a variant is longer than `max_words`."""
    async with running(tmp_path) as park:
        tally = (park.folder / "profiles/test/tally.toml").read_text()
        wide = tally.replace('firmware = ">=3"', 'firmware = ">=2"')
        wide = wide.replace(
            'address = 6, type = "u32", order = "ABCD"', 'address = 6, type = "u64", order = "ABCDEFGH"'
        )
        (park.folder / "profiles/test/wide.toml").write_text(wide)
        short = 'profile = "test/wide"\nlimits = { max_words = 2 }'
        outcome = await park.reload(park.edited(('profile = "test/tally"', short)))
        assert outcome.accepted and "limits.max_words: 2 is less than the 4 registers" in str(outcome.warnings), outcome
        device, other = device_of(park, "w"), device_of(park, "moves")
        await until(lambda: "ac.energy.export needs 4 registers" in device.poll.last_error)
        readings = other.stream.readings
        await until(lambda: other.stream.readings > readings + 20)
        assert device.identity is None
        assert (await park.reload(park.edited(('profile = "test/tally"', 'profile = "test/wide"')))).accepted
        await until(lambda: device.identity is not None and device.poll.driver.spec.variant == ">=2")
        readings = device.stream.readings
        await until(lambda: device.stream.readings > readings)


async def test_a_line_that_cannot_be_closed_does_not_keep_the_agent_from_its_last_packs(tmp_path: Path) -> None:
    """Its adapter was pulled out. Nothing was sealed or sent at the stop, and the store stayed open."""
    with failing(Line, "close", OSError(errno.EIO, "Input/output error")) as count:
        async with running(tmp_path) as park:
            await until(lambda: all(device.stream.packs for device in park.service.devices))
        assert count()
    assert not list((park.folder / "run").glob("ring.*")), "everything in it is sealed"
    assert not any(line.is_open for line in list(park.service.lines.values())[1:])
    for line in park.service.lines.values():  # otherwise its files are closed during another test, which counts them
        await line.close()
    store = Store.open(park.folder / "state/store.db")
    events = [event for pack in store.packs.after("park7/gw01/_gateway", 0, 10**6) for event in events_of(pack.data)]
    store.close()
    assert events[-1] == "stop"


def events_of(data: bytes) -> list[str]:
    return [event["event"] for event in json.loads(data).get("events", ())]
