"""A device that answers with markup, escape sequences and marks that turn text round: nothing of it acts on a reader.

Simulated device, real agent, real control socket; then page, watch, status, read and report, in both languages.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from agent.cli.findings import find
from agent.cli.main import outcome
from agent.cli.watch.live_view import LiveView
from agent.cli.watch.pages import Pages
from agent.cli.watch.trends import Trends
from agent.config import WebConfig, load_page_config
from agent.web.routes import PageConfig, make_app
from tests.kits.broker import until
from tests.kits.house import Agent, House, Meter
from tests.web.test_live_pages import Tags, is_harmless

pytestmark = pytest.mark.process

MARKUP = "<img src=x onerror=alert(1)>"
SERIAL = f"{MARKUP}\u202e\u2066\x1b[31m\x9b2J\x07\r\n`</code>{{{{7*7}}}}"
MODEL = "\x1b]0;owned\x07" + "é" * 105
LABEL = f"<script>alert(2)</script> {MARKUP} 'x\" &lt;"
OBEYED = set("\x1b\x07\x9b\x0d\u202e\u2066\u200f")  # by a terminal, or by who lays out text
TEXTS = """
[[point]]
name = "device.serial"
address = 200
type = "str"
count = 50
pace = "once"

[[point]]
name = "device.model"
address = 300
type = "str"
count = 120
pace = "normal"
"""


def words(text: str, count: int) -> list[int]:
    raw = text.encode("latin-1", "ignore") if "\u202e" not in text else text.encode()
    raw = raw[: 2 * count].ljust(2 * count, b"\0")
    return [int.from_bytes(raw[n : n + 2], "big") for n in range(0, 2 * count, 2)]


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    folder = tmp_path_factory.mktemp("hostile")
    with House(folder) as house:
        meter = Meter(1)
        meter.image.put_words(200, words(SERIAL, 50))
        meter.image.put_words(300, words(MODEL, 120))
        every = '{ fast = "500 ms", normal = "1 s", slow = "5 s" }\nlabel = ' + json.dumps(LABEL)
        one = house.agent(None, {"roof": house.field.tcp(meter)}, {"m1": ("roof", 1)}, every=every)
        profile = folder / "profiles/test/tally.toml"
        front, sample, rest = profile.read_text().partition("[[variant]]")
        profile.write_text(front + TEXTS + sample + rest)
        one.start(seconds=60)

        def heard() -> bool:
            view = LiveView(one.runtime, [], [])
            try:
                view.catch_up()
                return any(MARKUP in str(latest.value) for latest in view.shown())
            finally:
                view.close()

        until(lambda: one.life("m1") == "alive" and heard(), 60, lambda: one.said)
        yield one


@pytest.fixture(autouse=True)
def nothing_left_running() -> None:
    """In place of the check after each test: the agent belongs to the module, which ends it."""


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_the_page(agent: Agent, lang: str) -> None:
    config = load_page_config(agent.config)
    assert config.labels == {"m1": LABEL}
    app = make_app(PageConfig(WebConfig(), config.timezone, agent.runtime, labels=config.labels))
    with TestClient(app, "http://127.0.0.1:8080") as browser:
        shown = ""
        for path in ("/", "/device/m1", "/device/m1/device.serial", "/device/m1/device.model", "/frames/roof", "/day",
                     "/day?device=m1", "/figures", "/pack/m1/1"):  # fmt: skip
            answer = browser.get(path, params={"lang": lang})
            assert answer.status_code in (200, 404, 503), path  # no pack yet, perhaps
            assert is_harmless(answer.text) and not OBEYED & set(answer.text), path
            assert not [tag for tag, _ in Tags(answer.text).seen if tag == "img"], path
            shown += answer.text
        assert "&lt;img src=x onerror=alert(1)&gt;" in shown and "{{7*7}}" in shown, "as text, it is there"


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_the_screen_of_watch(agent: Agent, lang: str) -> None:
    view = LiveView(agent.runtime, [], [], keeps_history=True)
    try:
        view.catch_up()
        pages, trends, now = Pages(lang), Trends(), time.time()
        trends.add(view.snapshot)
        made = [
            pages.devices(view, now), pages.values(view, time.time_ns()), pages.lines(view, trends),
            pages.findings(view, find(view.snapshot, now, True), now, 80),
        ]  # fmt: skip
        texts = [cell.text for page in made for at in range(page.count) for cell in page.row(at)]
        texts += [page.detail(at) for page in made for at in range(page.count)]
    finally:
        view.close()
    assert any(MARKUP in text for text in texts) and not OBEYED & set("".join(texts))


@pytest.mark.parametrize("lang", ["en", "zh"])
@pytest.mark.parametrize(
    "command",
    [("status", "--points"), ("status",), ("watch", "--plain", "--for", "100ms"), ("watch", "--json", "--for", "100ms"),
     ("read", "m1"), ("report",), ("doctor",)],
    ids=" ".join,
)  # fmt: skip
def test_what_commands_print(
    agent: Agent,
    lang: str,
    command: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("LC_ALL", "zh_CN.UTF-8" if lang == "zh" else "C.UTF-8")
    outcome([command[0], *command[1:], "-c", str(agent.config)])
    said = "".join(capfd.readouterr())
    assert said and not OBEYED & set(said), said


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_the_report_as_html(agent: Agent, lang: str, tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    assert outcome(["report", "--html", str(file), "--lang", lang, "-c", str(agent.config)]) == 0
    text = file.read_text("utf-8")
    assert is_harmless(text) and not OBEYED & set(text) and not [tag for tag, _ in Tags(text).seen if tag == "img"]
