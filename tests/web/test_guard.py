"""Who sees the page: strangers, other sites, wrong passwords, clients that are slow, many or too large."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest

from agent.web.guard import is_our_host
from agent.web.page_base import static_files
from agent.web.password import (
    MOST_ADDRESSES,
    MOST_SESSIONS,
    SESSION_S,
    TRIES,
    TRY_EVERY_S,
    LoginLimiter,
    PasswordChecker,
    PasswordHash,
    Sessions,
    TryLater,
)
from drivers.model import ConfigError
from tests.web.conftest import LINE, PASSWORD

NAMES = frozenset({"localhost", "gw01"})


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.0.0.1:8080", "[::1]:8443", "localhost:1", "gw01", "GW01:8443", "192.0.2.7"]
)
def test_addresses_and_own_names_are_our_hosts(host: str) -> None:
    assert is_our_host(host, NAMES)


@pytest.mark.parametrize(
    "host",
    ["", "evil.example", "evil.example:8080", "gw01.evil.example", "user@127.0.0.1", "127.0.0.1/x", "127.0.0.1:x",
     "[::1", "127.0.0.1#gw01", "127.0.0.1.evil.example", "gw01?", "a" * 5000, "%6cocalhost", "localhost\\@evil"],
)  # fmt: skip
def test_a_name_that_somebody_pointed_here_is_refused(viewer, traces, host: str) -> None:
    """DNS rebinding: the browser believes it talks to evil.example, and a script there would read the answer."""
    assert not is_our_host(host, NAMES)
    if host.isascii() and host:
        answer = viewer().get("/", headers={"host": host})
        assert answer.status_code == 421 and "inv1" not in answer.text


def test_every_answer_has_the_headers_that_bind_a_browser(viewer, traces) -> None:
    browser = viewer()
    for path in ("/", "/nothing", "/static/page.css", "/device/inv1", "/device/none"):
        headers = browser.get(path).headers
        assert headers["content-security-policy"].startswith("default-src 'self';"), path
        assert "unsafe" not in headers["content-security-policy"]
        assert (headers["x-content-type-options"], headers["x-frame-options"]) == ("nosniff", "DENY")
        assert "access-control-allow-origin" not in headers and "server" not in headers
        assert headers["cache-control"] == ("private, max-age=86400" if "static" in path else "no-store")
    refused = browser.get("/", headers={"host": "evil.example"})
    assert "content-security-policy" in refused.headers


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT"])
def test_nothing_can_be_changed(viewer, traces, method: str) -> None:
    browser = viewer()
    for path in ("/", "/device/inv1", "/static/page.css"):
        assert browser.request(method, path).status_code == 405


def test_large_requests_are_refused(viewer, traces) -> None:
    browser = viewer(password=True)
    assert browser.get("/?" + "a" * 3000).status_code == 414
    assert browser.post("/login", content=b"password=" + b"a" * 5000).status_code == 413
    assert browser.post("/login", content=iter([b"password=", b"a" * 3000, b"a" * 3000])).status_code == 400
    assert browser.post("/login", headers={"content-length": "-1"}, content=b"").status_code == 413


@pytest.mark.parametrize(
    "path",
    ["/static/../../../etc/passwd", "/static/..%2f..%2fpassword.py", "/static//etc/passwd", "/static/%2e%2e/routes.py",
     "/static/vendor/../../password.py", "/static/vendor", "/static/", "/static/LICENSE%00.css", "/static/page.css/"],
)  # fmt: skip
def test_a_path_leads_nowhere_else(viewer, traces, path: str) -> None:
    answer = viewer().get(path)
    assert answer.status_code == 404 and "scrypt" not in answer.text and "root:" not in answer.text


@pytest.mark.parametrize(
    "line", ["../snapshot", "..%2fsnapshot.json", "%2e%2e%2fring", "roof%00", "roof/../../x", "none"]
)
def test_a_line_that_is_none_opens_no_file(viewer, traces, line: str) -> None:
    assert viewer().get(f"/frames/{line}").status_code == 404


def test_without_a_login_only_form_and_style_are_shown(viewer, traces) -> None:
    browser = viewer(password=True)
    for path in ("/", "/device/inv1", "/frames/roof", "/day", "/figures", "/nothing", "/source/inv1/x", "/loginx"):
        answer = browser.get(path)
        assert answer.status_code == 303 and answer.headers["location"].startswith("/login"), path
        assert browser.get(path, headers={"x-refresh": "1"}).status_code == 401
    form = browser.get("/login")
    assert form.status_code == 200 and browser.get("/static/page.css").status_code == 200
    nothing = browser.get("/static/nothing")
    assert nothing.status_code == 404 and 'action="/logout"' not in nothing.text
    for secret in ("inv1", "park7", "gw01", "0.1.0", "roof"):
        assert secret not in form.text + nothing.text, "not even the gateway's name"
    for forged in ("meterhouse=x", "meterhouse=", "meterhouse=" + "a" * 2000, 'meterhouse="', "=;=;"):
        assert browser.get("/", headers={"cookie": forged}).status_code == 303


def test_the_right_password_opens_a_session_that_a_logout_ends(viewer, traces) -> None:
    browser = viewer(password=True)
    answer = browser.post("/login?next=/device/inv1", data={"password": PASSWORD})
    assert (answer.status_code, answer.headers["location"]) == (303, "/device/inv1")
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=strict" in cookie and "Path=/" in cookie and "Domain" not in cookie
    stolen = browser.cookies["meterhouse"]
    assert "inv1" in browser.get("/").text
    assert browser.post("/logout").status_code == 303
    assert browser.get("/", headers={"cookie": f"meterhouse={stolen}"}).status_code == 303


@pytest.mark.parametrize("foreign", ['prefs={"theme":"dark"}', "a=hello world", 'a="', "=;b", "a:b=1"])
def test_a_cookie_of_another_program_on_the_host_does_not_hide_the_session(viewer, traces, foreign: str) -> None:
    """Cookies are shared by all ports of a host. Before, the form appeared again after the right password."""
    browser = viewer(password=True)
    browser.post("/login", data={"password": PASSWORD})
    session = f"meterhouse={browser.cookies['meterhouse']}"
    browser.cookies.clear()
    for cookies in (f"{foreign}; {session}", f"{session}; {foreign}"):
        assert "inv1" in browser.get("/", headers={"cookie": cookies}).text


@pytest.mark.parametrize(
    "target",
    ["//evil.example", "https://evil.example", "/\\evil.example", "javascript:alert(1)", "/x\r\nset-cookie: a=b",
     '/"><script>'],
)  # fmt: skip
def test_a_login_leads_to_no_other_site(viewer, traces, target: str) -> None:
    browser = viewer(password=True)
    assert "<script>" not in browser.get("/login", params={"next": target}).text
    answer = browser.post("/login", params={"next": target}, data={"password": PASSWORD})
    assert (answer.status_code, answer.headers["location"]) == (303, "/")


def test_another_site_cannot_log_anybody_in_or_out(viewer, traces) -> None:
    browser = viewer(password=True)
    for headers in (
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "https://127.0.0.1:8080"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ):
        for path in ("/login", "/logout"):
            assert browser.post(path, data={"password": PASSWORD}, headers=headers).status_code == 403
    good = {"origin": "http://127.0.0.1:8080", "sec-fetch-site": "same-origin"}
    assert browser.post("/login", data={"password": PASSWORD}, headers=good).status_code == 303


def test_wrong_passwords_are_counted_by_address(viewer, traces, monkeypatch) -> None:
    monkeypatch.setattr("agent.web.password.TRY_EVERY_S", 1e9)
    browser = viewer(password=True, client="192.0.2.9")
    tries = [browser.post("/login", data={"password": "wrong"}) for _ in range(TRIES)]
    assert {answer.status_code for answer in tries} == {403} and "not the password" in tries[0].text
    late = browser.post("/login", data={"password": PASSWORD})
    assert late.status_code == 429 and int(late.headers["retry-after"]) > 0


def test_who_guesses_does_not_lock_out_a_browser_that_has_logged_in(viewer, traces, monkeypatch) -> None:
    """Of the same address, such as behind one router; the token is worth five tries, not a login."""
    monkeypatch.setattr("agent.web.password.TRY_EVERY_S", 1e9)
    browser = viewer(password=True, client="192.0.2.9")
    assert browser.post("/login", data={"password": PASSWORD}).status_code == 303
    browser.post("/logout")
    token = browser.cookies["meterhouse-known"]

    def login(password: str, cookie: str) -> int:
        browser.cookies.clear()
        return browser.post("/login", data={"password": password}, headers={"cookie": cookie}).status_code

    forged = f"meterhouse-known={token[:-1]}{'A' if token[-1] != 'A' else 'E'}"
    assert [login("wrong", forged) for _ in range(TRIES + 2)] == [403] * TRIES + [429] * 2
    known = f"meterhouse-known={token}"
    assert browser.get("/", headers={"cookie": known}).status_code == 303, "it opens nothing"
    assert [login(PASSWORD, known) for _ in range(20)] == [303] * 20
    assert [login("wrong", known) for _ in range(TRIES + 1)] == [403] * TRIES + [429]


def test_a_limiter_gives_one_more_try_after_a_while_and_stays_small() -> None:
    now = [0.0]
    limiter = LoginLimiter(lambda: now[0])
    for _ in range(TRIES):
        limiter.take("192.0.2.1")
    with pytest.raises(TryLater):
        limiter.take("192.0.2.1")
    limiter.take("192.0.2.2")
    now[0] += TRY_EVERY_S
    limiter.take("192.0.2.1")
    with pytest.raises(TryLater):
        limiter.take("192.0.2.1")
    for n in range(TRIES):  # one IPv6 customer has 2**64 addresses
        limiter.take(f"2001:db8:0:1::{n + 1}")
    with pytest.raises(TryLater):
        limiter.take("2001:db8:0:1:ffff::7")
    for n in range(TRIES):  # any account of this machine may use these
        limiter.take(f"127.0.{n}.{n + 1}")
    for address in ("127.255.0.1", "::1"):
        with pytest.raises(TryLater):
            limiter.take(address)
    for n in range(MOST_ADDRESSES + 10):
        limiter.take(f"10.0.{n >> 8}.{n & 255}")
    assert len(limiter._buckets) == MOST_ADDRESSES


async def test_passwords_are_checked_one_at_a_time() -> None:
    """16 MB each: as many at once as somebody sends would be a way to end the process."""
    running, most = 0, 0

    class Slow(PasswordHash):
        def matches(self, password: str) -> bool:
            nonlocal running, most
            running += 1
            most = max(most, running)
            done = super().matches(password)
            running -= 1
            return done

    hashed = PasswordHash.parse(LINE.encode(), "x")
    checker = PasswordChecker(Slow(hashed.salt, hashed.digest), LoginLimiter())
    found = await asyncio.gather(*(checker.check(f"10.0.0.{n}", PASSWORD) for n in range(12)), return_exceptions=True)
    assert most == 1 and found.count(True) == 4
    assert all(isinstance(one, TryLater) for one in found if one is not True)


def test_a_password_file_holds_a_hash_and_never_shows_what_else_it_holds(tmp_path: Path) -> None:
    assert PasswordHash.of(PASSWORD).line() != LINE, "each has a salt of its own"
    assert PasswordHash.parse(LINE.encode(), "x").matches(PASSWORD) and PASSWORD not in repr(PasswordHash.of(PASSWORD))
    assert not PasswordHash.parse(LINE.encode(), "x").matches(PASSWORD + " ")
    assert not PasswordHash.parse(LINE.encode(), "x").matches("a" * 100_000)
    for data in (b"", PASSWORD.encode(), b"scrypt$a$b", LINE.encode()[:-5], b"\xff\xfe", LINE.encode() * 2):
        with pytest.raises(ConfigError) as caught:
            PasswordHash.parse(data, "file p")
        assert "file p" in str(caught.value) and PASSWORD not in str(caught.value)


def test_sessions_end_and_stay_few() -> None:
    now = [0.0]
    sessions = Sessions(lambda: now[0])
    first = sessions.begin()
    assert sessions.valid(first) and not sessions.valid("") and not sessions.valid("\ud800")
    later = [sessions.begin() for _ in range(MOST_SESSIONS)]
    assert not sessions.valid(first) and sessions.valid(later[-1])
    now[0] += SESSION_S + 1
    assert not sessions.valid(later[-1])


def test_pages_have_no_script_or_style_of_their_own() -> None:
    """The content security policy forbids them; a browser would show a page without its charts."""
    folder = Path(__file__).resolve().parents[2] / "agent/web/templates"
    for path in folder.glob("*.html"):
        text = path.read_text("utf-8")
        assert not re.search(r"<style|style=|\bon[a-z]+=|<script(?![^>]*src=)|javascript:|\| *safe|autoescape", text), (
            path.name
        )
        assert not re.search(r"(?:src|href)=\"(?:https?:)?//", text), path.name
    for name, one in static_files().items():
        assert name.startswith("vendor/") or b"http" not in one.data.replace(b"http://www.w3.org/2000/svg", b""), name
