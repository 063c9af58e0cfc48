"""The frame of all commands: what is imported when, how errors end, what the help says."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.cli import main as frame
from drivers.model import BrokerError, ConfigError, GatewayError, LineTimeout, UsageError

PRESENT = frame.Commands("meterhouse").list_commands(click.Context(frame.cli))
HEAVY = {
    "rich",
    "sqlite3",
    "sqlite_utils",
    "paho",
    "pymodbus",
    "serial",
    "cryptography",
    "asyncio",
    "zstandard",
    "ext.ring",
}
ROOT = Path(frame.__file__).parents[2]


def python(code: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    args = [sys.executable, "-c", code]
    return subprocess.run(args, capture_output=True, text=True, env=env, timeout=200, check=False)


@pytest.mark.process
@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "gbk", "utf-8"])
def test_a_terminal_of_another_alphabet_is_no_fault_of_ours(encoding: str) -> None:
    """What its encoding has not is shown by its number; in JSON that is the same text."""
    code = "import agent.cli.main as m; m.main(['decode', 'dlt645', *{0!r}])"
    energy = "6861010000000068910833333433AB8967457816"
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": encoding}
    for args in ([energy], [energy, "--json"]):
        done = subprocess.run(
            [sys.executable, "-c", code.format(args)], capture_output=True, env=env, timeout=200, check=False
        )
        assert (done.returncode, done.stderr) == (0, b"")
    written = "utf-8" if encoding == "ascii" else encoding  # click takes ASCII for a wrong setting
    assert json.loads(done.stdout.decode(written))["readings"][0]["label"] == "正向有功总电能"


def test_the_frame_and_its_help_import_no_command_and_nothing_heavy() -> None:
    code = (
        "import sys, agent.cli.main as m\n"
        "try: m.main(['--help'])\n"
        "except SystemExit: pass\n"
        "print(*[n for n in sys.modules if n.startswith('agent.cli.') or n.split('.')[0] in %r or n in %r], sep='\\n')"
    )
    said = python(code % (HEAVY, HEAVY))
    loaded = said.stdout.partition("Documents:")[2].splitlines()
    modules = {line for line in loaded if line and " " not in line}
    empty = {
        "agent.cli.doctor",
        "agent.cli.handover",
        "agent.cli.keys",
        "agent.cli.report",
        "agent.cli.watch",
    }  # folders, which are imported to find their commands
    assert modules == {"agent.cli.main", "agent.cli.common", "agent.cli.help", *empty}


@pytest.mark.parametrize("name", ["status", "check", "keys"])
def test_one_command_does_not_import_the_others(name: str) -> None:
    if name not in PRESENT:
        pytest.skip(f"{name} is not built yet")
    code = (
        f"import sys, agent.cli.main as m\n"
        f"m.outcome(['{name}', '--help'])\n"
        f"known = {sorted(entry.module for entry in frame.COMMANDS.values())!r}\n"
        "print('MODULES', *sorted(n for n in sys.modules if n in known))"
    )
    loaded = python(code).stdout.partition("MODULES")[2].split()
    assert loaded == [frame.COMMANDS[name].module]


@pytest.mark.parametrize("name", PRESENT)
def test_every_help_has_an_example_and_its_exit_codes(mh, name: str) -> None:
    said = mh(name, "--help")
    text = said.out
    command = frame.cli.get_command(click.Context(frame.cli), name)
    if isinstance(command, click.Group):  # its commands carry their own
        text += "".join(mh(name, sub, "--help").out for sub in command.list_commands(click.Context(command)))
    assert said.code == 0
    assert "Example" in text and f"meterhouse {name}" in text
    assert "Exit codes:" in text


@pytest.mark.parametrize("name", PRESENT)
def test_the_short_help_of_the_frame_is_there_for_every_command(mh, name: str) -> None:
    said = mh("--help")
    assert f"\n  {name} " in said.out


def test_the_help_of_the_frame_leads_a_technician_to_the_documents(mh) -> None:
    out = mh("--help").out
    assert "meterhouse init " in out and "--add" in out
    documents = out.partition("\nDocuments:\n")[2].splitlines()
    assert len(documents) == 3 and all(Path(name.strip()).is_file() for name in documents)


def test_a_command_whose_module_is_absent_is_left_out(mh, monkeypatch: pytest.MonkeyPatch) -> None:
    table = {**frame.COMMANDS, "teleport": frame.CommandEntry("agent.cli.no_such_module", "Not built.")}
    monkeypatch.setattr(frame, "COMMANDS", table)
    assert "teleport" not in mh("--help").out
    said = mh("teleport")
    assert said.code == 2 and 'unknown command "teleport"' in said.err


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["chek"], 'error: unknown command "chek". Did you mean "check"?'),
        (["qqqqq"], 'error: unknown command "qqqqq". `meterhouse --help` lists all commands'),
        (["--nothing"], "error: No such option"),
        (["check", "--plam"], "error: No such option"),
        (["watch", "--for", "x"], "error: Invalid value for '--for': \"x\" is not a duration."),
        (["watch", "--for", "5 hours"], '"hours" is not a unit of time. Write "5 h"'),
    ],
)
def test_wrong_usage_is_exit_code_2_and_brings_the_nearest(mh, args, says) -> None:
    said = mh(*args)
    assert (said.code, said.out) == (2, "")
    assert says in said.err


def test_without_a_command_the_help_is_shown(mh) -> None:
    said = mh()
    assert "Commands:" in said.out + said.err


def test_version(mh) -> None:
    said = mh("--version")
    assert said.code == 0 and said.out.startswith("meterhouse ")


def failing(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    @click.command()
    def fail() -> None:
        raise error

    monkeypatch.setattr(frame.Commands, "list_commands", lambda self, ctx: ["fail"])
    monkeypatch.setattr(frame.Commands, "get_command", lambda self, ctx, name: fail)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (GatewayError("broke", where="here"), 1),
        (UsageError("cannot be", where="here"), 2),
        (ConfigError("wrong", where="here", hint="Do this"), 3),
        (LineTimeout("no answer", where="here"), 4),
        (BrokerError("away", where="here"), 5),
        (KeyboardInterrupt(), 130),
        (EOFError(), 130),
        (SystemExit(4), 4),
    ],
)
def test_errors_become_exit_codes(mh, monkeypatch, error, code) -> None:
    failing(monkeypatch, error)
    said = mh("fail")
    assert said.code == code
    if isinstance(error, GatewayError):
        assert said.err == f"error: {error}\n"


def test_all_complaints_are_said_each_on_its_line(mh, monkeypatch) -> None:
    both = (ConfigError("a", where="x:1"), ConfigError("b", where="x:2", hint="Write c"))
    failing(monkeypatch, ConfigError("2 things are wrong", where="x", complaints=both))
    assert mh("fail").err == "error: x:1: a\nerror: x:2: b. Write c\n2 errors.\n"


def test_a_bug_is_said_without_a_traceback_and_with_one_on_demand(mh, monkeypatch) -> None:
    failing(monkeypatch, ZeroDivisionError("oops"))
    said = mh("fail")
    assert said.code == 1
    assert said.err.startswith("error: internal error: ZeroDivisionError: oops\n") and "MH_DEBUG=1" in said.err
    monkeypatch.setenv("MH_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        frame.outcome(["fail"])


def test_an_error_keeps_its_traceback_with_mh_debug(monkeypatch) -> None:
    failing(monkeypatch, ConfigError("wrong", where="here"))
    monkeypatch.setenv("MH_DEBUG", "1")
    with pytest.raises(ConfigError):
        frame.outcome(["fail"])


TOKENS = [
    *(
        "inv1",
        "-c",
        "--config",
        "--json",
        "--plan",
        "--points",
        "--profile",
        "test/box",
        "--line",
        "tcp://",
        "--address",
    ),
    *(
        "--serial",
        "9600 8X1",
        "--param",
        "a=b",
        "=",
        "--point",
        "[",
        "--for",
        "0s",
        "-1 s",
        "1e9d",
        "--frames",
        "../..",
    ),
    *("--lang", "zh", "de", "--raw", "--runtime-dir", "/dev/null", "/", "--state-dir", ".", "", "\x1b[2J", "电表"),
]


@given(st.sampled_from(["check", "read", "status", "watch"]), st.lists(st.sampled_from(TOKENS), max_size=5))
def test_any_arguments_end_in_a_sentence(mh, tmp_path, command: str, args: list[str]) -> None:
    said = mh(command, "-c", tmp_path / "none.toml", "--runtime-dir", tmp_path, *args)
    assert said.code in {0, 1, 2, 3, 4}
    assert "a fault of ours" not in said.err and (said.err or said.out)


@pytest.mark.parametrize("command", ["check", "status", "watch", "read"])
@pytest.mark.parametrize("option", ["-c", "--runtime-dir", "--state-dir"])
def test_a_path_that_no_system_allows_is_a_sentence(mh, tmp_path, command: str, option: str) -> None:
    paths = {"-c": tmp_path / "none.toml"} | {option: "x" * 5000}
    names = ["inv1"] if command in {"watch", "read"} else []
    said = mh(command, *names, *(word for pair in paths.items() for word in pair))
    assert said.code in {1, 2, 3} and "a fault of ours" not in said.err and len(said.err) < 12_000


SPAM = """
import click, agent.cli.main as m
@click.command()
def spam():
    for _ in range(100_000): click.echo("x" * 100)
    raise SystemExit(3)
m.Commands.list_commands = lambda self, ctx: ["spam"]
m.Commands.get_command = lambda self, ctx, name: spam
m.main(["spam"])
"""


def test_a_reader_that_goes_away_is_no_fault() -> None:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-c", SPAM], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env, text=True
    )
    assert process.stdout and process.stderr
    assert process.stdout.readline() == "x" * 100 + "\n"
    process.stdout.close()
    said = process.stderr.read()
    process.stderr.close()
    assert (process.wait(60), said) == (0, "")


@pytest.mark.process
def test_ctrl_c_ends_without_a_traceback(traces, tmp_path) -> None:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    traces.values(2, (0, 15, 0, 0))
    args = [sys.executable, "-m", "agent.cli.main", "watch", "--json", "--runtime-dir", str(tmp_path / "run")]
    process = subprocess.Popen(args, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env, text=True)
    assert process.stdout and process.stderr
    assert '"ac.power.active"' in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=200)
    assert (process.returncode, err.strip()) == (130, "")
