"""Bad input as a technician meets it: the real command, its message and exit code, never a traceback."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.cli.main import outcome
from tests.kits.house import Agent, free_port

Run = Callable[..., tuple[int, str, str]]


def edited(agent: Agent, change: tuple[str, str]) -> None:
    text = agent.config.read_text()
    assert change[0] in text
    agent.config.write_text(text.replace(*change))


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """``meterhouse run``, or another command, that must end by itself: code, stdout, stderr."""
    for name in [name for name in os.environ if name.endswith("_DIRECTORY")]:  # of a unit that runs the tests
        monkeypatch.delenv(name)

    def played(agent: Agent, *more: str, command: str = "run") -> tuple[int, str, str]:
        capfd.readouterr()
        code = outcome([command, "-c", str(agent.config), *more])
        out, err = capfd.readouterr()
        assert "Traceback" not in out + err
        return code, out, err

    return played


@pytest.fixture
def agent(tmp_path: Path) -> Agent:
    """A good configuration of one device that nobody will ever ask."""
    return Agent(tmp_path, None, {"roof": f"modbus-tcp://127.0.0.1:{free_port()}"}, {"m1": ("roof", 1)})


EDITS = {
    "an unknown key": (
        ('name = "m1"', 'name = "m1"\nadress = "1"'),
        ["agent.toml:", "adress", 'Did you mean "address"?'],
    ),
    "a missing profile": (("test/tally", "test/taly"), ["agent.toml:", "test/taly", "test/tally"]),
    "a line that is not there": (('line = "roof"', 'line = "rof"'), ["agent.toml:", '"rof"', 'Did you mean "roof"?']),
    "a wrong unit": (('every = "1 s"', 'every = "1 sec"'), ["agent.toml:", "pack.every", "sec"]),
    "no TOML": (("[site]", "[site"), ["agent.toml:1"]),
}


@pytest.mark.parametrize("name", EDITS)
def test_a_configuration_with_a_fault(agent: Agent, run: Run, name: str) -> None:
    """File, line, key, what was seen and what would be right; code 3."""
    # field pain 71
    change, wanted = EDITS[name]
    edited(agent, change)
    code, out, err = run(agent)
    assert code == 3 and not out
    for text in wanted:
        assert text in err, err


def test_no_configuration_at_all(agent: Agent, run: Run) -> None:
    agent.config.unlink()
    code, _, err = run(agent)
    assert code == 3 and str(agent.config) in err


def test_a_profile_with_a_fault(agent: Agent, run: Run) -> None:
    """A site's own profile is named with its file and key."""
    profile = agent.folder / "profiles/test/tally.toml"
    profile.write_text(profile.read_text().replace('order = "ABCD"', 'oder = "ABCD"', 1))
    code, _, err = run(agent)
    assert code == 3 and "tally.toml" in err and "oder" in err and "order" in err


@pytest.mark.parametrize("trouble", ["missing", "open to others", "not a key", "a folder"])
def test_a_key_that_cannot_be_used(agent: Agent, run: Run, trouble: str) -> None:
    """Without its key the agent must not run: it says which file, and how to make one."""
    key = agent.folder / agent.state / "signing.key"
    if trouble == "missing":
        key.unlink()
    elif trouble == "open to others":
        key.chmod(0o644)
    elif trouble == "a folder":
        key.unlink()
        key.mkdir()
    else:
        key.write_text("hello\n")
    code, _, err = run(agent)
    assert code in (1, 3) and str(key) in err
    if trouble in ("missing", "not a key"):
        assert "meterhouse keys create" in err
    if trouble == "open to others":
        assert "chmod" in err or "0600" in err or "600" in err


def test_a_state_directory_that_cannot_be_made(agent: Agent, run: Run) -> None:
    (agent.folder / "file").write_text("")
    code, _, err = run(agent, "--state-dir", str(agent.folder / "file" / "state"))
    assert code in (1, 3) and str(agent.folder / "file" / "state") in err


@pytest.mark.parametrize("name", ["an unknown key", "no TOML"])
def test_a_running_agent_keeps_its_configuration_while_the_file_is_broken(agent: Agent, run: Run, name: str) -> None:
    """Found by the folder that the broken file still names; nobody has to give --runtime-dir."""
    agent.start()
    edited(agent, EDITS[name][0])
    code, _, err = run(agent, command="reload")
    assert code == 3 and "rejected: the previous configuration " in err and "agent.toml:" in err, err
    code, out, err = run(agent, command="status")
    assert code in (1, 3) and "m1" in out and "stays in effect" in err, err
    agent.stop()
