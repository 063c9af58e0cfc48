"""docs/field-guide.md is what happens: its commands are played against the simulated cabinet, its outputs compared.

`python tests/cli/test_field_guide.py` plays both pages, each in its language, and writes what the commands say now into
them (`... zh`: one page); look at the difference before you commit it. What a page leaves out with ``...`` comes back.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from drivers.model import Reason
from tests.kits.broker import free_port, until

ROOT = Path(__file__).resolve().parents[2]
PAGES = {"en": ROOT / "docs/field-guide.md", "zh": ROOT / "docs/field-guide.zh.md"}
TERMINALS = {"en": "C.UTF-8", "zh": "zh_CN.UTF-8"}
PORT = "18830"  # of the page's broker
THUMBPRINT = re.compile(r"park7/gw01=([\w-]{43})")
MOVING = ("status", "watch", "run", "doctor")  # what these say has ages and counts in it
FIRST_ROUND_S = 120.0
BLOCK = re.compile(r"^```(console|toml|csv)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
QR_CODE = re.compile(r"^[ \u2580\u2584\u2588]{20,}\n", re.MULTILINE)


@dataclass(slots=True)
class Step:
    """A command of the page and what it says there; or a file to write, whose first line may be its name."""

    command: str
    says: str
    file: str = ""


def steps(text: str) -> list[Step]:
    """All of a page, in order."""
    found: list[Step] = []
    for kind, body in BLOCK.findall(text):
        if kind != "console":
            named = re.match(r"# (\S+\.toml)\n", body)
            found.append(Step("", body, named[1] if named else "points.csv"))
            continue
        for line in body.splitlines(keepends=True):
            if line.startswith("$ "):
                found.append(Step(line[2:].rstrip("\n"), ""))
            else:
                found[-1].says += line
    return found


def plain(text: str, command: str) -> list[str]:
    """Lines that can be compared: without what is another every time."""
    text = QR_CODE.sub("", text)
    text = re.sub(r"127\.0\.0\.1:\d{4,5}\b", "127.0.0.1:PORT", text)
    text = re.sub(r"(hash|哈希|哈希值|configuration|配置) [\w-]{43}", r"\1 HASH", text)
    text = re.sub(r"(signed as|编号) \w{16}", r"\1 EVENT", text)
    text = re.sub(r"(sequence|的第) \d+", r"\1 N", text)
    if " handover " in command:  # it says so where a slow counter had not been read yet
        text = re.sub(r"^.*(?:not read yet, next reading|尚未读到).*\n", "", text, flags=re.MULTILINE)
    # the agent may still be at it, soon after its start
    text = re.sub(r"^(?:intervals: reading|时段数据：正在读取).*\n", "", text, flags=re.MULTILINE)
    if "--frames" in command:
        text = re.sub(r"(?:->|<-|\?\?) [0-9A-F ]+$", "FRAME", text, flags=re.MULTILINE)
    if " verify " in command:  # nothing may be missing or fail; how much there was differs
        text = re.sub(r"(?<=verified: packs: )[1-9]\d*|(?<=, readings: )[1-9]\d*", "#", text)
        text = re.sub(r"(?<=readings in gaps: )\d+|(?<=redelivered packs: )\d+", "#", text)
        text = re.sub(r"(?<=数据包 )\d+|(?<=(?:读数|缺数|重复) )\d+", "#", text)
    if any(word in command for word in MOVING):
        moment = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}"
        text = re.sub(rf"boot \w{{16}}|(?::|key) [\w-]{{43}}$|{moment}", "#", text, flags=re.MULTILINE)
        text = re.sub(r"\d+(?:\.\d+)?", "#", text)
        text = re.sub(r"#(?: (?:ms|min|s))\b", "# s", text)
        text = re.sub(r"# (?:秒|分钟)", "# 秒", text)
    return [" ".join(line.split()) for line in text.splitlines() if line.strip()]


def is_same(expected: str, got: str, command: str) -> bool:
    """Whether the page tells what was said; ``...`` on a line of its own stands for any lines."""
    pattern = "\n".join(".*" if line == "..." else re.escape(line) for line in plain(expected, command))
    pattern = pattern.replace(".*\n", "(?:.*\n)?").replace("\n.*", "(?:\n.*)?")
    return re.fullmatch(pattern, "\n".join(plain(got, command)), re.DOTALL) is not None


def with_a_good_clock(text: str) -> str:
    """What `status` says where the clock is synchronised, whatever this machine's is."""
    text = re.sub(
        r"clock (?:NOT synchronised|synchronised within \d+ ms|: not known)", "clock synchronised within 3 ms", text
    )
    text = re.sub(r"时钟(?:未同步|已同步，误差 \d+ ms 内|：未知)", "时钟已同步，误差 3 ms 内", text)
    text, found = re.subn(
        r"(?:error: the clock of this |故障：本网关的时钟).*\n  (?:what to do: |处理：).*\n", "", text
    )
    if found:
        text = text.replace("1 fault; exit code 1.", "All is well.").replace("共 1 个故障；退出码 1。", "一切正常。")
    return text


class Walk:
    """A shell of the page: what ends in ``&`` runs on until the walk ends."""

    def __init__(self, folder: Path, language: str) -> None:
        self._folder, self._site = folder, folder / "site"
        self._running: list[subprocess.Popen[str]] = []
        self._told_ns = 0
        self._environment = {**os.environ, "LANG": "C.UTF-8", "LC_MESSAGES": TERMINALS[language], "TZ": "Asia/Shanghai"}
        self._environment.pop("LC_ALL", None)
        self._environment["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        self._here = {"/tmp/": f"{folder}/", f":{PORT}": (port := f":{free_port()}"), f"-p {PORT}": f"-p {port[1:]}"}
        self._site.mkdir()

    def here(self, text: str) -> str:
        for there, here in self._here.items():
            text = text.replace(there, here)
        return text

    def there(self, text: str) -> str:
        for there, here in self._here.items():
            text = text.replace(here, there)
        return text

    def play(self, step: Step) -> str:
        """What the step says, as if it was said where the page is."""
        if step.file:
            (self._site / step.file).write_text(self.here(step.says), "utf-8")
            return step.says
        said = self._run(step.command)
        if (page := THUMBPRINT.search(step.says)) and (made := THUMBPRINT.search(said)):
            self._here[page[1]] = made[1]  # the key is new, and the page goes on with its own
        return self.there(with_a_good_clock(said))

    def _run(self, command: str) -> str:
        if command.startswith("cd "):
            return ""
        if command.startswith("export "):
            name, _, value = command.removeprefix("export ").partition("=")
            self._environment[name] = self.here(value)
            return ""
        if command.endswith("&"):
            return self._start(command.removesuffix("&").strip())
        if " status" in command or " watch" in command:
            self._all_were_met()
        done = subprocess.run(
            ["bash", "-c", self.here(command)], env=self._environment, cwd=self._site, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=240, check=False,
        )  # fmt: skip
        assert "Traceback" not in done.stdout, done.stdout
        return done.stdout

    def _start(self, command: str) -> str:
        """What it says until it is ready: a simulator says which file reads it, the agent that it serves."""
        child = subprocess.Popen(
            ["bash", "-c", f"exec {self.here(command)}"], env=self._environment, cwd=self._site, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        self._running.append(child)
        if ready := {"mosquitto": " running", "meterhouse verify": "Sending SUBACK"}.get(command.partition(" -")[0]):
            log = self._folder / "mosquitto.log"
            until(lambda: log.exists() and ready in log.read_text(), what=command)
            return ""
        assert child.stdout is not None
        said = ""
        for line in child.stdout:
            said += line
            if "meterhouse run -c" in line or ": serving " in line:
                return said
        raise AssertionError(f"{command} ended: {said}")

    def _all_were_met(self) -> None:
        """The agent has read each device, the slow ones too."""
        until(self._is_met, FIRST_ROUND_S, "each device was read")

    def _is_met(self) -> bool:
        snapshot = self._site / "run" / "snapshot.json"
        told_ns = snapshot.stat().st_mtime_ns if snapshot.exists() else 0
        if told_ns == self._told_ns:  # until the agent tells something new of itself
            return False
        self._told_ns = told_ns
        done = subprocess.run(["meterhouse", "status", "--json"], env=self._environment, stdout=subprocess.PIPE,
                              stderr=subprocess.DEVNULL, text=True, check=False)  # fmt: skip
        devices = json.loads(done.stdout)["devices"].values() if done.stdout.startswith("{") else ()
        return bool(devices) and all(device["readings"] and device["life"] == "alive" for device in devices)

    def close(self) -> None:
        for child in reversed(self._running):
            child.send_signal(signal.SIGTERM)
            child.wait(60)
            if child.stdout is not None:
                child.stdout.close()


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(not shutil.which("mosquitto"), reason="no mosquitto here: apt-get install mosquitto")
@pytest.mark.parametrize("language", PAGES)
def test_the_walk_is_as_the_page_tells(language: str, tmp_path: Path) -> None:
    """From an unknown cabinet to a signed handover."""
    walk, others = Walk(tmp_path, language), []
    try:
        for step in steps(PAGES[language].read_text("utf-8")):
            said = walk.play(step)
            if not is_same(step.says, said, step.command):
                others.append(f"$ {step.command}\n{said}\n--- the page has\n{step.says}")
    finally:
        walk.close()
    assert not others, "\n".join(others)


def test_both_pages_tell_the_same_walk() -> None:
    """Commands and files; only labels differ, and what is said."""
    english, chinese = (steps(page.read_text("utf-8")) for page in PAGES.values())
    assert [step.command.replace("--lang en", "--lang zh") for step in english] == [step.command for step in chinese]
    for one, other in zip(english, chinese, strict=True):
        if one.file:
            says = re.sub(r"^label = .*\n", "", one.says, flags=re.MULTILINE)
            assert says == re.sub(r"^label = .*\n", "", other.says, flags=re.MULTILINE), one.file


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
def test_it_verifies_its_own_gateway_only(language: str) -> None:
    """The broker of a park has other gateways, whose thumbprints are not given."""
    commands = [step.command for step in steps(PAGES[language].read_text("utf-8"))]
    verifies = [command for command in commands if " verify " in command]
    assert verifies and all("--site park7 --gateway gw01 " in command for command in verifies), verifies


@pytest.mark.parametrize("language", PAGES)
def test_every_message_is_one_that_is_said(language: str) -> None:
    """The table of messages quotes what the commands say; … stands for what differs."""
    folders = (ROOT / "agent", ROOT / "drivers")
    files = [path for folder in folders for kind in ("*.py", "texts.toml") for path in sorted(folder.rglob(kind))]
    sources = " ".join(path.read_text("utf-8") for path in files)
    sources = re.sub(r"\s+", " ", re.sub(r'"\s*\n\s*f?"', "", sources))
    page = PAGES[language].read_text("utf-8")
    rows = [row for row in re.findall(r"^\| `([^`]+)` \|", page, re.MULTILINE) if " " in row]
    assert len(rows) > 20
    for message in rows:
        for piece in filter(None, (part.strip(" .:?") for part in re.split(r"…|(?<=[.?]) ", message))):
            assert piece in sources, message
    words = {reason.name.lower() for reason in Reason} | {"range", "frozen", "suspect", "clock"}
    assert words <= set(re.findall(r"`([a-z_]+)`", page)), "each reason for a gap is explained"


def rewrite(language: str) -> None:
    """Play a page and put what is said now into it."""
    page = PAGES[language]
    text = page.read_text("utf-8")
    played = Walk(Path("/tmp"), language)  # as on the page: the columns of its tables stay
    try:
        for step in steps(text):
            said = played.play(step)
            print(f"$ {step.command}\n{said}", flush=True)
            if not step.file and not is_same(step.says, said, step.command):
                new = "".join(f"{line.rstrip()}\n" for line in QR_CODE.sub("", said).splitlines())
                text = text.replace(f"$ {step.command}\n{step.says}", f"$ {step.command}\n{new}", 1)
    finally:
        played.close()
    page.write_text(text, "utf-8")


if __name__ == "__main__":
    for chosen in sys.argv[1:] or PAGES:
        rewrite(chosen)
