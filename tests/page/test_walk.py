"""A headless Chromium walks the page: both languages, desktop and phone, with all well and with each part gone.

In file order: each test leaves the park as the next one needs it.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kits.broker import until
from tests.page.conftest import AXE, PASSWORD, Scene

pytestmark = pytest.mark.page

SIZES = {"desktop": (1280, 900), "phone": (390, 844)}
WAIT_MS = 60_000
VIEWS = [  # each language and size in light and dark
    ("en", "desktop", "light"),
    ("zh", "desktop", "dark"),
    ("en", "phone", "dark"),
    ("zh", "phone", "light"),
]


@contextlib.contextmanager
def viewer(scene: Scene, language: str, size: str, scheme: str) -> Iterator[Any]:
    """A page of somebody who has logged in; at its end nothing was wrong in the browser."""
    width, height = SIZES[size]
    context = scene.browser.new_context(
        viewport={"width": width, "height": height}, color_scheme=scheme, ignore_https_errors=True,
        is_mobile=size == "phone", has_touch=size == "phone", locale="zh-CN" if language == "zh" else "en-GB",
    )  # fmt: skip
    context.set_default_timeout(WAIT_MS)
    wrong: list[str] = []
    page = context.new_page()
    page.on("console", lambda said: wrong.append(said.text) if said.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on(
        "requestfailed", lambda request: wrong.append(request.url) if "ABORTED" not in (request.failure or "") else None
    )
    page.on("request", lambda request: wrong.append(request.url) if not request.url.startswith(scene.url) else None)
    if scene.cookie:
        context.add_cookies([scene.cookie])
    page.wrong = wrong
    yield page
    context.close()
    assert not wrong, wrong


def look(page: Any, scene: Scene, path: str, name: str, shots: Path | None, *statuses: int) -> None:
    """Open a page: it fits its screen, nothing serious is wrong for people with a handicap."""
    answer = page.goto(scene.url + path)
    if answer.status != 200:
        page.wrong.clear()  # the browser's own line about the status
    assert answer.status in (statuses or (200,)), (path, answer.status)
    if page.query_selector("figure"):
        page.wait_for_function("document.documentElement.dataset.charts !== undefined")
        assert page.query_selector(".uplot canvas"), path
    assert "\ufffd" not in page.content(), path
    wide = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert wide[0] <= wide[1], f"{path} is {wide[0]} wide on {wide[1]}"
    if shots is not None:
        page.screenshot(path=str(shots / f"{name}.png"), full_page=True)
    page.evaluate(AXE.read_text("utf-8"))
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
    serious = [
        (one["id"], one["help"], [node["target"] for node in one["nodes"]][:3])
        for one in found
        if one["impact"] in ("serious", "critical")
    ]
    assert not serious, (path, serious)


def test_a_stranger_sees_a_form_and_the_password_opens_it(scene: Scene, shots: Path | None) -> None:
    with viewer(scene, "en", "desktop", "light") as page:
        look(page, scene, "/", "login", shots)
        assert page.url.endswith("/login") and "m1" not in page.content()
        page.fill("#password", "not the password")
        page.click("main button")
        page.wait_for_selector("[role=alert].bad")
        page.wrong.clear()  # the browser's own line about status 403
        page.fill("#password", PASSWORD)
        page.keyboard.press("Enter")
        page.wait_for_selector("table")
        cookies = page.context.cookies()
        (session,) = [one for one in cookies if one["name"] == "__Host-meterhouse"]
        assert session["secure"] and session["httpOnly"] and session["sameSite"] == "Strict"
        scene.cookie = session


@pytest.mark.parametrize(("language", "size", "scheme"), VIEWS)
def test_the_agent_runs(scene: Scene, shots: Path | None, language: str, size: str, scheme: str) -> None:
    with viewer(scene, language, size, scheme) as page:
        pages = {
            "now": "/", "device": "/device/m1", "source": "/device/m1/ac.energy.import", "frames": "/frames",
            "today": "/day", "day": f"/day?date={scene.day}", "day-device": f"/day?date={scene.day}&device=m1",
            "figures": f"/figures?period=day&date={scene.day}",
            "figures-month": f"/figures?period=month&date={scene.day}",
            "pack": "/pack/m1/3",
        }  # fmt: skip
        for name, path in pages.items():
            look(page, scene, path, f"{name}-{language}-{size}", shots)
        look(page, scene, "/nothing", f"nothing-{language}-{size}", None, 404)
        assert page.evaluate("document.documentElement.lang") == ("zh-CN" if language == "zh" else "en")


def test_values_move_and_a_pause_holds_them(scene: Scene) -> None:
    with viewer(scene, "en", "desktop", "light") as page:
        page.goto(scene.url + "/device/m1")
        row = page.locator("tr", has_text="ac.energy.import").first.locator("td").first
        row.wait_for()
        before = row.inner_text()
        page.locator("#pause").focus()
        page.wait_for_function(
            "before => [...document.querySelectorAll('tr')].some(r => r.textContent.includes('ac.energy.import')"
            " && r.cells[1].textContent !== before)",
            arg=before,
        )
        assert page.evaluate("document.activeElement.id") == "pause", "a refresh leaves the focus where it is"
        page.keyboard.press("Enter")
        page.wait_for_selector("#pause[aria-pressed=true]")
        requests: list[str] = []
        page.on("request", lambda request: requests.append(request.url))
        held = page.inner_html("main")
        page.evaluate("() => new Promise(done => setTimeout(done, 2500))")
        assert page.inner_html("main") == held and not requests


@pytest.mark.parametrize("path", ["/", "/device/m1", "/frames/roof"])
def test_focus_and_scroll_stay_while_the_page_refreshes(scene: Scene, path: str) -> None:
    """Also where a part of the page comes or goes before the link."""
    with viewer(scene, "en", "phone", "light") as page:
        page.goto(scene.url + path)
        focused = "main a" if path != "/frames/roof" else "main [tabindex]"
        page.locator(focused).last.focus()
        page.evaluate("window.focused = document.activeElement")
        at = page.evaluate("scrollY")
        for change in ("0", "document.querySelector('main').prepend(document.createElement('p'))", "0"):
            page.evaluate(change)
            with page.expect_response(lambda answer: answer.request.headers.get("x-refresh") == "1"):
                pass
            page.evaluate("() => new Promise(done => requestAnimationFrame(() => setTimeout(done, 100)))")
            assert page.evaluate("document.activeElement === window.focused && window.focused.isConnected"), change
        assert page.evaluate("document.querySelector('main > p:first-child:empty')") is None
        assert abs(page.evaluate("scrollY") - at) < 60


def test_by_keyboard_alone(scene: Scene) -> None:
    with viewer(scene, "en", "desktop", "light") as page:
        page.goto(f"{scene.url}/day?date={scene.day}&device=m1")
        page.wait_for_function("document.documentElement.dataset.charts !== undefined")
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.className") == "skip"
        page.keyboard.press("Enter")
        page.locator("figure.chart").first.focus()
        for _ in range(9):
            page.keyboard.press("ArrowRight")
        said = page.locator("output.reader").first.inner_text()
        assert "02:00" in said and "no answer in time" in said, "the ninth quarter is read out, with what is missing"
        page.locator("summary").first.focus()
        page.keyboard.press("Enter")
        assert page.locator("details table").first.is_visible()
        page.locator("details a").first.focus()
        page.keyboard.press("Enter")
        page.wait_for_url("**/pack/m1/*")


def test_the_language_is_one_click_away_and_stays(scene: Scene) -> None:
    with viewer(scene, "en", "phone", "light") as page:
        page.goto(scene.url + "/")
        page.click("a[hreflang=zh-CN]")
        page.wait_for_selector("html[lang=zh-CN]")
        page.click("nav a[href='/figures']")
        page.wait_for_selector("html[lang=zh-CN]")
        assert "指标" in page.inner_text("h1")


@pytest.mark.parametrize(("language", "size", "scheme"), VIEWS)
def test_a_device_is_pulled(scene: Scene, shots: Path | None, language: str, size: str, scheme: str) -> None:
    scene.meters[1].fault("silence")
    until(lambda: scene.agent.life("m2") == "dead", 60, lambda: scene.agent.said)
    with viewer(scene, language, size, scheme) as page:
        page.goto(scene.url + "/")
        page.wait_for_selector(".state.dead")
        for name, path in {"now": "/", "device": "/device/m2", "today-device": "/day?device=m2"}.items():
            look(page, scene, path, f"pulled-{name}-{language}-{size}", shots)


@pytest.mark.parametrize(("language", "size", "scheme"), VIEWS)
def test_the_broker_is_gone(scene: Scene, shots: Path | None, language: str, size: str, scheme: str) -> None:
    scene.meters[1].well()
    scene.broker.stop()
    with viewer(scene, language, size, scheme) as page:
        page.goto(scene.url + "/")
        page.wait_for_selector(".finding.bad:has-text('platform')")
        look(page, scene, "/", f"broker-{language}-{size}", shots)


@pytest.mark.parametrize(("language", "size", "scheme"), VIEWS)
def test_the_agent_is_stopped(scene: Scene, shots: Path | None, language: str, size: str, scheme: str) -> None:
    if scene.agent.process is not None:
        assert scene.agent.stop(60) == 0
    text = "The agent is not running" if language == "en" else "采集程序未运行"
    with viewer(scene, language, size, scheme) as page:
        page.goto(scene.url + "/")
        page.wait_for_selector(f"h1:has-text('{text}')")
        assert not page.query_selector("a.value:not(.missing)"), "no old value is shown as a new one"
        look(page, scene, "/", f"stopped-{language}-{size}", shots)
        look(page, scene, f"/day?date={scene.day}", f"stopped-day-{language}-{size}", None)  # closed: still known
        # what it was asked in the last minute is kept
        look(page, scene, "/device/m1/ac.energy.import", f"stopped-source-{language}-{size}", shots, 200, 503)


def test_the_page_is_gone(scene: Scene) -> None:
    """What is on the screen is said to be old."""
    with viewer(scene, "en", "desktop", "light") as page:
        page.goto(scene.url + "/")
        scene.page.send_signal(signal.SIGTERM)
        page.wait_for_selector("#lost:has-text('the data shown are old')")
        assert scene.page.wait(60) == 0  # a second signal would meet Python's own end, and kill
        page.wrong.clear()
    assert scene.page.wait(60) == 0  # a second signal would end it at once
