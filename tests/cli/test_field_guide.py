"""docs/field-guide.md is what happens: its commands are played against the simulated cabinet, its outputs compared.

`python tests/cli/test_field_guide.py` plays the page and writes what the commands say now into it, and into the Chinese
page; look at the difference before you commit it.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from drivers.model import Reason

ROOT = Path(__file__).resolve().parents[2]
PAGES = {"en": ROOT / "docs/field-guide.md", "zh": ROOT / "docs/field-guide.zh.md"}
PARK, SITE = "/tmp/park", "/tmp/site"
MOVING = ("status", "watch", "run")  # what these say has ages and counts in it
FIRST_ROUND_S = 120.0
BLOCK = re.compile(r"^```(console|toml)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(slots=True)
class Step:
    """A command of the page and what it says there; or a file to write."""

    command: str
    says: str
    is_file: bool = False


def steps(text: str) -> list[Step]:
    """All of a page, in order."""
    found: list[Step] = []
    for kind, body in BLOCK.findall(text):
        if kind == "toml":
            found.append(Step("", body, is_file=True))
            continue
        for line in body.splitlines(keepends=True):
            if line.startswith("$ "):
                found.append(Step(line[2:].rstrip("\n"), ""))
            else:
                found[-1].says += line
    return found


def plain(text: str, command: str) -> list[str]:
    """Lines that can be compared: without what is another every time."""
    text = re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1:PORT", text)
    text = re.sub(r"hash [\w-]{43}", "hash HASH", text)
    if "--frames" in command:
        text = re.sub(r"(?:->|<-|\?\?) [0-9A-F ]+$", "FRAME", text, flags=re.MULTILINE)
    if any(word in command for word in MOVING):
        moment = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}"
        text = re.sub(rf"boot \w{{16}}|(?::|key) [\w-]{{43}}$|{moment}", "#", text, flags=re.MULTILINE)
        text = re.sub(r"\d+(?:\.\d+)?", "#", text)
        text = re.sub(r"#(?: (?:ms|min|s))\b", "# s", text)
    return [" ".join(line.split()) for line in text.splitlines() if line.strip()]


def is_same(expected: str, got: str, command: str) -> bool:
    """Whether the page tells what was said; ``...`` on a line of its own stands for any lines."""
    pattern = "\n".join(".*" if line == "..." else re.escape(line) for line in plain(expected, command))
    pattern = pattern.replace(".*\n", "(?:.*\n)?").replace("\n.*", "(?:\n.*)?")
    return re.fullmatch(pattern, "\n".join(plain(got, command)), re.DOTALL) is not None


def with_a_good_clock(text: str) -> str:
    """What `status` says where the clock is synchronised, whatever this machine's is."""
    head = r"clock (?:NOT synchronised|synchronised within \d+ ms|: not known)"
    text = re.sub(head, "clock synchronised within 3 ms", text)
    text, found = re.subn(r"error: the clock of this .*\n  what to do: .*\n", "", text)
    return text.replace("1 fault; exit code 1.", "All is well.") if found else text


class Walk:
    """A shell of the page: what ends in ``&`` runs on until the walk ends."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._running: list[subprocess.Popen[str]] = []
        self._environment = {**os.environ, "LANG": "C.UTF-8", "TZ": "Asia/Shanghai"}
        self._environment["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        (folder / "site").mkdir()

    def here(self, text: str) -> str:
        return text.replace(PARK, str(self._folder / "park")).replace(SITE, str(self._folder / "site"))

    def there(self, text: str) -> str:
        return text.replace(str(self._folder / "park"), PARK).replace(str(self._folder / "site"), SITE)

    def write(self, text: str) -> None:
        (self._folder / "site" / "agent.toml").write_text(self.here(text), "utf-8")

    def run(self, command: str) -> str:
        if command.startswith("export "):
            name, _, value = command.removeprefix("export ").partition("=")
            self._environment[name] = self.here(value)
            return ""
        if command.endswith("&"):
            return self._start(command.removesuffix("&").strip())
        if " status" in command or " watch" in command:
            self._all_were_met()
        done = subprocess.run(
            ["bash", "-c", self.here(command)], env=self._environment, cwd=self._folder / "site", text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=240, check=False,
        )  # fmt: skip
        assert "Traceback" not in done.stdout, done.stdout
        return self.there(with_a_good_clock(done.stdout))

    def _start(self, command: str) -> str:
        """What it says until it is ready: a simulator says which file reads it, the agent that it serves."""
        child = subprocess.Popen(
            ["bash", "-c", f"exec {self.here(command)}"], env=self._environment, cwd=self._folder / "site", text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        self._running.append(child)
        assert child.stdout is not None
        said = ""
        for line in child.stdout:
            said += line
            if " reads it: " in line or ": serving " in line:
                return self.there(said)
        raise AssertionError(f"{command} ended: {said}")

    def _all_were_met(self) -> None:
        """The agent has read each device, the slow ones too."""
        end = time.monotonic() + FIRST_ROUND_S
        while True:
            told = self._told_ns()
            done = subprocess.run(["meterhouse", "status", "--json"], env=self._environment, stdout=subprocess.PIPE,
                                  stderr=subprocess.STDOUT, text=True, check=False)  # fmt: skip
            if done.stdout.startswith("{"):
                devices = json.loads(done.stdout)["devices"].values()
                if all(device["readings"] and device["life"] == "alive" for device in devices):
                    return
            while self._told_ns() == told:  # until the agent says something new of itself
                assert time.monotonic() < end, done.stdout
                threading.Event().wait(0.02)

    def _told_ns(self) -> int:
        """When the agent last said how it is."""
        snapshot = self._folder / "site" / "run" / "snapshot.json"
        return snapshot.stat().st_mtime_ns if snapshot.exists() else 0

    def close(self) -> None:
        for child in reversed(self._running):
            child.send_signal(signal.SIGTERM)
            child.wait(60)
            if child.stdout is not None:
                child.stdout.close()


@pytest.fixture
def walk(tmp_path: Path) -> Iterator[Walk]:
    made = Walk(tmp_path)
    yield made
    made.close()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_walk_is_as_the_page_tells(walk: Walk) -> None:
    """From an unknown cabinet to a running configuration; what is said with --lang en is looked at in Chinese, too."""
    chinese = steps(PAGES["zh"].read_text("utf-8"))
    for n, step in enumerate(steps(PAGES["en"].read_text("utf-8"))):
        if step.is_file:
            walk.write(step.says)
            continue
        said = walk.run(step.command)
        assert is_same(step.says, said, step.command), f"$ {step.command}\n{said}\n--- the page has\n{step.says}"
        if "--lang en" in step.command:
            said = walk.run(chinese[n].command)
            assert is_same(chinese[n].says, said, step.command), said


def test_both_pages_tell_the_same_walk() -> None:
    """Commands, files and outputs; only labels and what is said with --lang differ."""
    english, chinese = (steps(page.read_text("utf-8")) for page in PAGES.values())
    assert [step.command.replace("--lang en", "--lang zh") for step in english] == [step.command for step in chinese]
    for one, other in zip(english, chinese, strict=True):
        if "--lang" not in one.command:
            says = re.sub(r"^label = .*\n", "", one.says, flags=re.MULTILINE)
            assert says == re.sub(r"^label = .*\n", "", other.says, flags=re.MULTILINE), one.command


@pytest.mark.parametrize("language", PAGES)
def test_every_option_exists(language: str, mh) -> None:
    for step in steps(PAGES[language].read_text("utf-8")):
        found = re.match(r"(?:\w+=\S+ )?meterhouse ((?:[a-z]+ )?[a-z]+)", step.command)
        if found is None:
            continue
        words = found[1].split() if found[1].split()[0] in ("keys", "decode", "profiles") else found[1].split()[:1]
        said = mh(*words, "--help")
        assert said.code == 0, step.command
        for option in re.findall(r" (--[a-z-]+)", step.command):
            assert option in said.out, step.command


@pytest.mark.parametrize("language", PAGES)
def test_every_message_is_one_that_is_said(language: str) -> None:
    """The table of messages quotes what the commands say; … stands for what differs."""
    folders = (ROOT / "agent", ROOT / "drivers")
    sources = " ".join(p.read_text("utf-8") for folder in folders for p in sorted(folder.rglob("*.py")))
    sources = re.sub(r"\s+", " ", re.sub(r'"\s*\n\s*f?"', "", sources))
    page = PAGES[language].read_text("utf-8")
    rows = [row for row in re.findall(r"^\| `([^`]+)` \|", page, re.MULTILINE) if " " in row]
    assert len(rows) > 20
    for message in rows:
        for piece in filter(None, (part.strip(" .:?") for part in re.split(r"…|(?<=[.?]) ", message))):
            assert piece in sources, message
    words = {reason.name.lower() for reason in Reason} | {"range", "frozen", "suspect", "clock"}
    assert words <= set(re.findall(r"`([a-z_]+)`", page)), "each reason for a gap is explained"


def rewrite() -> None:
    """Play the English page and put what is said now into both."""
    folder = Path(tempfile.mkdtemp(prefix="meterhouse-guide-"))
    played = Walk(folder)
    pages = {language: page.read_text("utf-8") for language, page in PAGES.items()}
    try:
        chinese = steps(pages["zh"])
        for n, step in enumerate(steps(pages["en"])):
            if step.is_file:
                played.write(step.says)
                continue
            said = played.run(step.command)
            print(f"$ {step.command}\n{said}", flush=True)
            for language, (command, says) in {
                "en": (step.command, step.says), "zh": (chinese[n].command, chinese[n].says)
            }.items():  # fmt: skip
                if language == "zh" and "--lang" in command:
                    said = played.run(command)
                if not is_same(says, said, command):
                    new = "".join(f"{line.rstrip()}\n" for line in said.splitlines())
                    pages[language] = pages[language].replace(f"$ {command}\n{says}", f"$ {command}\n{new}", 1)
    finally:
        played.close()
    for language, page in PAGES.items():
        page.write_text(pages[language], "utf-8")


if __name__ == "__main__":
    rewrite()
