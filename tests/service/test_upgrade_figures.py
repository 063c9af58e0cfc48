"""A gateway is stopped, killed and upgraded from a version whose figures lost energy at restarts; all is healed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agent.cli.main import outcome
from tests.kits.house import Agent, House, Listener, Meter, devices_on, until
from tests.kits.older import older

BEFORE = "23c9fce11d9a756d82b472fcd14040a189a540de"  # the last commit whose interval states could not be read back
MORE = """[interval]
length = "1 min"
"""
ROLES = {"m1": "grid", "m2": "generation.pv"}
OLDER = "import sys; sys.path.insert(0, {folder!r}); from agent.cli.main import main; main()"


def results(listener: Listener) -> list[dict[str, Any]]:
    """Figures of intervals with the boot that signed them."""
    packs = sorted(listener.packs("_indicators"), key=lambda pack: pack["seq"])
    found = [result | {"boot": pack["boot"]} for pack in packs for result in pack.get("results", ())]
    return [one for one in found if one.get("id") == "plain/consumption" and one["period"]["kind"] == "interval"]


def boot(agent: Agent) -> str:
    return str(agent.snapshot()["boot"])


def more(listener: Listener, agent: Agent, count: int) -> None:
    """Wait until this start of the agent has signed so many intervals."""
    mine = boot(agent)
    until(lambda: sum(one["boot"] == mine for one in results(listener)) >= count, 240, lambda: agent.said)


@pytest.mark.slow
def test_what_is_signed_after_an_upgrade_recomputes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    program = ("-c", OLDER.format(folder=str(older(BEFORE, tmp_path / "older"))))
    with House(tmp_path / "house") as house:
        house.folder.mkdir()
        meters = [Meter(1, firmware="3"), Meter(2, firmware="3")]
        broker = house.broker()
        listener = house.listen(broker)
        agent = house.agent(
            broker, {"roof": house.field.tcp(*meters)}, devices_on("roof", meters), more=MORE, program=program
        )
        text = agent.config.read_text()
        for name, role in ROLES.items():
            text = text.replace(f'name = "{name}"\n', f'name = "{name}"\nroles = {{ "ac" = "{role}" }}\n')
        agent.config.write_text(text)
        agent.start()
        more(listener, agent, 1)
        assert agent.stop() == 0
        agent.start()
        more(listener, agent, 1)
        agent.kill()
        agent.program = ("-m", "agent.cli.main")
        agent.start()
        upgraded = {boot(agent)}
        more(listener, agent, 2)
        assert agent.stop() == 0
        agent.start()
        upgraded.add(boot(agent))
        more(listener, agent, 1)
        agent.kill()
        agent.start()
        upgraded.add(boot(agent))
        more(listener, agent, 1)
        until(lambda: not agent.snapshot()["intervals"].get("repair"), 60, lambda: agent.said)
        assert agent.stop() == 0
        assert "begin anew" not in agent.said
        signed = results(listener)

        def run(*words: object) -> tuple[int, str]:
            code = outcome([str(word) for word in words])
            return code, capsys.readouterr().out

        assert run("export", tmp_path / "packs", "-c", agent.config)[0] == 0
        _, out = run("verify", tmp_path / "packs", "--trust", agent.kid, "--recompute", "--json")
        found = json.loads(out)["recomputed"]
    by_label = {one["period"]["label"]: one["boot"] for one in signed}
    wrong = {text.partition(" of ")[2].partition(": ")[0] for text in found["differing"]}
    assert found["unknown"] == 0
    assert {by_label[label] for label in wrong}.isdisjoint(upgraded), (wrong, by_label)
    assert wrong, "the older version's figures over its restarts are listed as what they are"
    assert found["agree"] >= 15
