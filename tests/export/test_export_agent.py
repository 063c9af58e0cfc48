"""A running agent with a real broker: what it published and what is exported after kill -9 and a clean stop agree."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from agent.store import Store
from agent.verify import Verdict, Verifier
from agent.verify.files import read_paths
from tests.export.test_export_intervals import keep, rows_of
from tests.kits.books import settle
from tests.kits.house import SITE, House, Listener, Meter, come_home, one_meter, until

pytestmark = [pytest.mark.process, pytest.mark.timeout(300)]  # of scenarios that wait for packs of a second each


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    if not shutil.which("mosquitto"):
        pytest.skip("no mosquitto here: apt-get install mosquitto")
    with House(tmp_path) as made:
        yield made


def whole(listener: Listener, device: str) -> bool:
    """No sequence between the first and the last is missing."""
    seqs = {pack["seq"] for pack in listener.packs(device)}
    return bool(seqs) and seqs == set(range(1, max(seqs) + 1))


def tree(folder: Path) -> dict[str, bytes]:
    """All files below a folder."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_what_a_running_agent_gives_is_what_its_database_gives_byte_for_byte(
    tmp_path: Path, house: House, mh: Callable[..., tuple[int, str, str]]
) -> None:
    _, listener, _, agent = one_meter(tmp_path, house)
    agent.start()
    until(lambda: len(listener.numbers("m1")) > 1, what=lambda: agent.said)
    assert agent.stop() == 0
    (path,) = tmp_path.rglob("store.db")
    store = Store.open(path, 64 << 20)
    keep(store, next(name for name in store.packs.heads() if name.endswith("/m1")))
    store.close()
    agent.start()
    until(lambda: len(listener.numbers("m1")) > 5, what=lambda: agent.said)
    until(lambda: any("/checkpoint/" in m.topic for m in listener.heard))
    before = {pack["seq"] for pack in listener.packs("m1")}
    end = max(pack["from"] for pack in listener.packs("m1")) - 1
    stretch = ["--to", datetime.fromtimestamp(int(end), UTC).isoformat(), "--stream", "m1", "-c", agent.config]
    code, out, err = mh("export", tmp_path / "living", *stretch, "--csv", tmp_path / "living.csv", "--json")
    assert code == 0, err
    rows = ["--stream", "m1", "--to", "2026-11-24T12:00Z", "-c", agent.config]
    code, said, err = mh("export", "--intervals-flat", tmp_path / "living.rows.csv", *rows)
    assert code == 0 and "rows" in said, err
    until(lambda: {pack["seq"] for pack in listener.packs("m1")} > before, what="sealing goes on")
    left = {path.name for path in agent.runtime.iterdir() if not path.name.startswith(("ring.", "frames."))}
    assert left <= {"control", "agent.lock", "snapshot.json", "snapshot.new", "metrics.prom", "metrics.new"}, left
    code, _, err = mh("export", tmp_path / "no", "-c", agent.config, "--stream", "m9")
    assert code == 2 and "Known: _gateway, m1" in err, err
    assert not list(tmp_path.glob("*no*"))
    assert agent.stop() == 0
    code, _, err = mh("export", tmp_path / "stopped", *stretch, "--csv", tmp_path / "stopped.csv")
    assert code == 0, err
    code, _, err = mh("export", "--intervals-flat", tmp_path / "stopped.rows.csv", *rows)
    assert code == 0, err
    assert (tmp_path / "living.rows.csv").read_bytes() == (tmp_path / "stopped.rows.csv").read_bytes()
    assert len(rows_of(tmp_path / "living.rows.csv")) == 24
    assert tree(tmp_path / "living") == tree(tmp_path / "stopped")
    assert (tmp_path / "living.csv").read_bytes() == (tmp_path / "stopped.csv").read_bytes()
    assert json.loads(out)["packs"] > 2 and mh("verify", tmp_path / "living", "--trust", agent.kid)[0] == 0


def test_a_folder_and_the_broker_agree_after_a_kill(
    tmp_path: Path, house: House, mh: Callable[..., tuple[int, str, str]]
) -> None:
    broker, listener, meter, agent = one_meter(tmp_path, house)
    agent.start()
    until(lambda: any("/checkpoint/" in m.topic for m in listener.heard), what=lambda: agent.said)
    code, _, err = mh("export", tmp_path / "early", "-c", agent.config)
    assert code == 0 and mh("verify", tmp_path / "early", "--trust", agent.kid)[0] == 0, err
    agent.kill()
    agent.start()
    until(lambda: len(listener.numbers("m1")) > 6 and len({p["boot"] for p in listener.packs("m1")}) > 1)
    until(lambda: len({p["boot"] for p in listener.packs("_gateway")}) > 1)
    until(lambda: not (at := agent.snapshot()["uplinks"]["platform"])["backfilling"] and not at["waiting"])
    until(
        lambda: all(whole(listener, name) for name in ("m1", "_gateway")), what="the backlog, which a stop cuts short"
    )
    assert come_home(agent, listener) == 0
    settle(listener.heard, agent.kid, {"m1": meter})
    assert any(event["event"] == "stop" for event in listener.events("_gateway"))
    folder = tmp_path / "out"
    code, _, err = mh("export", folder, "-c", agent.config, "--csv", tmp_path / "readings.csv")
    assert code == 0, err
    there, here = Verifier([agent.kid]), Verifier([agent.kid])
    for message in listener.heard:
        there.feed(message.payload, message.topic)
    read_paths(here, [folder])
    one, two = there.finish(), here.finish()
    assert one.verdict is two.verdict is Verdict.VERIFIED, (one.reasons, two.reasons)
    assert (one.packs, one.readings, one.gaps) == (two.packs, two.readings, two.gaps)
    assert one.checkpoints == two.checkpoints >= 2
    pages = [json.loads(m.payload) for m in listener.heard if m.topic == f"meterhouse/v1/{SITE}/checkpoint/1"]
    assert [p["counter"] for p in pages] == list(range(pages[0]["counter"], pages[0]["counter"] + len(pages)))
    last = {h["stream"]: h["seq"] for h in pages[-1]["heads"]}
    assert last == {name: s.last_seq for name, s in two.streams.items()}, "the last one names the very end"
    late = house.listen(broker)
    until(lambda: any("/checkpoint/1" in m.topic and m.retained for m in late.heard))
    assert (tmp_path / "readings.csv").read_text().count("ac.energy.import") == len(set(listener.numbers("m1")))


def test_the_stream_of_a_device_that_was_taken_out_is_retired(
    tmp_path: Path, house: House, mh: Callable[..., tuple[int, str, str]]
) -> None:
    """Who expects everything of this gateway does not wait for it for ever."""
    meters = [Meter(1), Meter(2)]
    agent = house.agent(None, {"roof": house.field.tcp(*meters)}, {"m1": ("roof", 1), "m2": ("roof", 2)})
    agent.start()
    until(lambda: agent.snapshot()["devices"]["m2"]["readings"] > 3, what=lambda: agent.said)
    assert agent.stop() == 0
    agent.devices = {"m1": ("roof", 1)}
    agent.configure()
    agent.start()
    until(lambda: agent.snapshot()["devices"]["m1"]["readings"] > 3, what=lambda: agent.said)
    assert agent.stop() == 0
    for name in ("whole", "one"):
        only = ["--stream", "m1", "--stream", "_gateway"] if name == "one" else []
        code, _, err = mh("export", tmp_path / name, "-c", agent.config, *only)
        assert code == 0, err
        code, out, _ = mh("verify", tmp_path / name, "--trust", agent.kid, "--json")
        report = json.loads(out)
        assert report["verdict"] == "verified", report["reasons"]
        retired = [stream for stream, facts in report["streams"].items() if facts["retired"]]
        assert retired == [f"{SITE}/m2"]
        code, out, _ = mh("verify", tmp_path / name, "--trust", agent.kid, "--expect-complete", "--json")
        assert not [text for text in json.loads(out)["shortfalls"] if "without any pack" in text]
