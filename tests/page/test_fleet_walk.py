"""A headless Chromium walks the fleet's page: both languages and screens, light and dark, from a gateway to a pack."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.kits.broker import free_port, until
from tests.page.conftest import ARGUMENTS, CHROMIUM, ROOT, ended, lacking
from tests.page.test_walk import look, viewer
from tests.web.test_server import answers

pytestmark = pytest.mark.page

VIEWS = [("en", "desktop", "light"), ("zh", "phone", "dark")]


@dataclass
class FleetScene:
    """A page on a database with a made-up fleet, and a browser."""

    url: str
    browser: Any
    cookie: dict[str, Any] = field(default_factory=dict)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FleetScene]:
    if why := lacking():
        pytest.skip(why)
    pytest.importorskip("psycopg", reason="the extra `platform` is not installed")
    from playwright.sync_api import sync_playwright

    from receiver.database import check_place, connect, create_tables
    from receiver.private_postgres import NoPostgres, PrivatePostgres
    from tests.kits.fleet_scene import fill

    folder = tmp_path_factory.mktemp("fleet")
    with contextlib.ExitStack() as stack:
        server = PrivatePostgres(settings=["fsync=off", "synchronous_commit=off"])
        try:
            server.start()
        except NoPostgres as error:
            pytest.skip(str(error))
        stack.callback(server.stop)
        create_tables(server.dsn)
        with connect(server.dsn) as connection:
            check_place(connection, server.dsn, 0, 1)
        fill(server.dsn)
        port = free_port()
        with (folder / "log").open("wb") as log:
            command = [sys.executable, "-m", "agent.cli.main", "platform", "page", "--db", server.dsn]
            command += ["--listen", f"127.0.0.1:{port}", "--timezone", "Asia/Shanghai", "--lang", "en"]
            page = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        stack.callback(ended, page, folder / "log")
        until(lambda: answers(port) or page.poll() is not None, what=(folder / "log").read_text)
        play = stack.enter_context(sync_playwright())
        browser = play.chromium.launch(executable_path=CHROMIUM, args=list(ARGUMENTS))
        stack.callback(browser.close)
        yield FleetScene(f"http://localhost:{port}", browser)


@pytest.mark.parametrize(("language", "size", "scheme"), VIEWS)
def test_each_page_of_the_fleet(fleet: Any, shots: Path | None, language: str, size: str, scheme: str) -> None:
    with viewer(fleet, language, size, scheme) as page:
        pages = {
            "fleet": "/", "fleet-gateway": "/gateway/site00/gw00000", "fleet-refused": "/gateway/site00/gw00001",
            "fleet-stream": "/stream/site00/gw00000/long", "fleet-pack": "/pack/site00/gw00000/long/2",
        }  # fmt: skip
        for name, path in pages.items():
            look(page, fleet, path, f"{name}-{language}-{size}", shots)
        look(page, fleet, "/gateway/no/one", f"fleet-nothing-{language}-{size}", None, 404)
        assert page.evaluate("document.documentElement.lang") == ("zh-CN" if language == "zh" else "en")


def test_from_the_fleet_to_the_bytes_by_keyboard(fleet: Any, shots: Path | None) -> None:
    with viewer(fleet, "en", "desktop", "light") as page:
        page.goto(fleet.url + "/?lang=en")
        page.locator("#q").fill("gw00000")
        page.keyboard.press("Enter")
        page.wait_for_url("**q=gw00000**")
        assert page.locator(".fleet tbody tr").count() == 1
        page.locator(".fleet tbody th a").focus()
        page.keyboard.press("Enter")
        page.wait_for_url("**/gateway/site00/gw00000")
        page.locator("a", has_text="long").focus()
        page.keyboard.press("Enter")
        page.wait_for_url("**/stream/**")
        page.wait_for_function("document.documentElement.dataset.charts !== undefined")
        page.locator("figure.chart").first.focus()
        page.keyboard.press("End")
        assert "readings" in page.locator("output.reader").first.inner_text()
        page.locator("details td a").first.focus()
        page.keyboard.press("Enter")
        page.wait_for_url("**/packs/**")
        assert page.locator("td.hash").first.inner_text().strip()
        if shots is not None:
            page.screenshot(path=str(shots / "fleet-packs-en-desktop.png"), full_page=True)
        look(page, fleet, page.url.removeprefix(fleet.url), "fleet-packs", shots)
        page.locator("tbody th a").first.click()
        page.wait_for_url("**/pack/**")
        with page.expect_download() as download:
            page.locator("a[download]").click()
        assert b'"stream":"site00/gw00000/long"' in Path(download.value.path()).read_bytes()


def test_a_tile_filters_and_filters_no_more(fleet: Any) -> None:
    with viewer(fleet, "zh", "phone", "dark") as page:
        page.goto(fleet.url + "/")
        page.locator("a.tile.silent").click()
        page.wait_for_url("**state=silent**")
        assert page.locator(".fleet tbody tr").count() == 1
        page.locator("a.tile.silent[aria-current]").click()
        page.wait_for_url(fleet.url + "/")
