"""The help of every command, in English and in Chinese."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import product

import click
import pytest

from agent.cli.chinese import translate
from agent.cli.common import columns
from agent.cli.help import EXTRA, wrapped
from agent.cli.main import COMMANDS, cli

HAN = re.compile("[\u4e00-\u9fff]")
ENGLISH = re.compile(r"[a-z]{3,} [a-z]{2,} [a-z]{2,}")
HALF = re.compile(r"[A-Za-z]{2,},? [a-z]{2,},? [a-z]{2,}")  # an English run of words
QUOTED = re.compile(r"`[^`]*`|\b(silence|unplug) .*")  # commands, and the list of faults of `simulate`
MOST_ENGLISH = 0  # texts without Chinese


def commands(command: click.Command = cli, name: str = "meterhouse") -> Iterator[tuple[str, click.Command]]:
    """Every command with its full name, subcommands too."""
    yield name, command
    if isinstance(command, click.Group):
        context = click.Context(command, info_name=name)
        for inner in command.list_commands(context):
            found = command.get_command(context, inner)
            assert found is not None
            yield from commands(found, f"{name} {inner}")


def help_of(name: str, command: click.Command, width: int = 80) -> str:
    """As a terminal of this width shows it."""
    return command.get_help(click.Context(command, info_name=name, terminal_width=width))


@pytest.fixture
def chinese(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "zh_CN.UTF-8")


@pytest.mark.usefixtures("chinese")
def test_the_line_of_every_command_is_chinese() -> None:
    assert [name for name, entry in COMMANDS.items() if not HAN.search(translate(entry.help))] == []


def texts(command: click.Command) -> Iterator[str]:
    """The texts of a command that a person reads: paragraphs, exit codes, options. Examples are not translated."""
    for paragraph in re.split(r"\n[ \t]*\n", command.help or ""):
        whole = " ".join(paragraph.replace("\b", "").split())
        if not whole.startswith(("Example", "First steps")):
            yield whole
    for param in command.get_params(click.Context(command)):
        record = param.get_help_record(click.Context(command))
        if record is not None:
            yield EXTRA.sub("", record[1])


def test_every_text_of_every_command_is_chinese() -> None:
    names = dict(commands())
    assert len(names) > len(COMMANDS) + 15
    english = {
        text: name
        for name, command in names.items()
        for text in texts(command)
        if ENGLISH.search(text) and not HAN.search(translate(text))
    }
    assert len(english) <= MOST_ENGLISH, "add them to agent/cli/chinese/help_*.txt:\n" + "\n".join(
        f"{name}: {text}" for text, name in english.items()
    )


@pytest.mark.usefixtures("chinese")
def test_no_text_is_half_english() -> None:
    """A template with little text of its own, such as "{} is missing", must not take a whole English sentence."""
    mixed = {
        (name, shown)
        for name, command in commands()
        for text in (*texts(command), " ".join((command.help or "").partition("\n\n")[0].split()))
        if HAN.search(shown := translate(text)) and HALF.search(QUOTED.sub("", shown))
    }
    assert mixed == set(), "give the whole text in agent/cli/chinese/help_*.txt"


@pytest.mark.usefixtures("chinese")
def test_the_list_of_commands_of_a_group_is_chinese_though_click_cuts_the_english() -> None:
    groups = [(name, command) for name, command in commands() if isinstance(command, click.Group)]
    assert len(groups) > 4
    for (name, command), width in product(groups, (60, 200)):
        listed = help_of(name, command, width).rpartition("命令：\n")[2]
        english = [line for line in listed.splitlines() if HALF.search(QUOTED.sub("", line))]
        assert english == [] and "..." not in listed, (name, english)


@pytest.mark.usefixtures("chinese")
def test_chinese_help_fits_a_terminal_and_no_mark_begins_a_line() -> None:
    for name, command in commands():
        for line in help_of(name, command).splitlines():
            if "meterhouse " in line or "/tmp/" in line:
                continue  # an example stays whole, so that it can be copied
            assert columns(line) <= 80 or not HAN.search(line), (name, line)
            assert not re.match(r"\s*[，。；：、）？！]", line), (name, line)


@pytest.mark.usefixtures("chinese")
def test_usage_headings_and_defaults_are_chinese() -> None:
    found = dict(commands())
    text = help_of("meterhouse watch", found["meterhouse watch"])
    assert text.startswith("用法：meterhouse watch [选项] [DEVICE]...\n")
    assert "\n选项：\n" in text and "  示例：\n    meterhouse watch\n" in text and "  退出码：0 正常，" in text
    scan = help_of("meterhouse scan", found["meterhouse scan"])
    assert "[必填]" in scan and "默认：各协议的常用参数" in scan.replace("\n", "").replace(" ", "")
    assert "  入门：\n    meterhouse demo      " in help_of("meterhouse", cli) and "无需硬件，先看效果" in help_of(
        "meterhouse", cli
    )


def test_english_help_is_what_click_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    for name, command in commands():
        context = click.Context(command, info_name=name, terminal_width=80)
        plain = click.HelpFormatter(width=80)
        command.format_help(context, plain)
        assert help_of(name, command) == plain.getvalue().rstrip("\n"), name


@pytest.mark.parametrize(
    ("text", "width", "lines"),
    [
        ("读取一台设备一次。", 20, ["读取一台设备一次。"]),
        ("读取一台设备一次。", 16, ["读取一台设备一", "次。"]),
        ("按 Ctrl-C 结束，见 `status`。", 14, ["按 Ctrl-C 结", "束，见", "`status`。"]),
        ("", 10, []),
    ],
)  # fmt: skip
def test_lines_break_between_characters_and_before_words(text: str, width: int, lines: list[str]) -> None:
    assert wrapped(text, width) == lines
