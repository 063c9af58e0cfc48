"""`meterhouse web` as a process: set up, TLS, login, clients that are slow or many, and its end."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import hashlib
import http.client
import os
import re
import resource
import signal
import socket
import ssl
import stat
import subprocess
import sys
import weakref
from asyncio import sslproto
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from agent.cli.main import outcome
from agent.config import load_page_config
from agent.web.live import Moment
from agent.web.server import MOST_ENDING, MOST_OF_ONE_ADDRESS, BoundedListener, BoundedTls, PageLoop
from agent.web.views import now_view
from tests.cli.test_certificates import certificate
from tests.kits.broker import free_port, until

pytestmark = pytest.mark.process

SITE = '[site]\nid = "park7"\ngateway = "gw01"\ntimezone = "Asia/Shanghai"\n[paths]\nruntime_dir = "run"\n'
PASSWORD = "a long enough password"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "agent.toml"
    path.write_text(SITE)
    (tmp_path / "first").write_text(PASSWORD + "\n")
    return path


@pytest.fixture
def page(config: Path, tmp_path: Path) -> Iterator[Callable[..., int]]:
    """Starts the page; gives its port once it answers."""
    with contextlib.ExitStack() as stack:

        def start(*args: str) -> int:
            port = free_port()
            command = [sys.executable, "-m", "agent.cli.main", "web", "-c", config, "--listen", f"127.0.0.1:{port}"]
            with (tmp_path / "log").open("wb") as log:
                process = subprocess.Popen([*command, *args], stdout=log, stderr=log, stdin=subprocess.DEVNULL)

            def end() -> None:
                process.send_signal(signal.SIGTERM)
                assert process.wait(60) == 0, (tmp_path / "log").read_text()
                assert "Traceback" not in (tmp_path / "log").read_text(), (tmp_path / "log").read_text()

            stack.callback(end)
            until(lambda: answers(port) or process.poll() is not None, what=(tmp_path / "log").read_text)
            return port

        yield start


def answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=30):
        return True
    return False


def setup(config: Path, *more: str) -> int:
    folder = config.parent / "secret"
    return outcome(
        ["web", "--setup", "-c", str(config), "--folder", str(folder), "--password-file", str(config.parent / "first"),
         "--listen", "127.0.0.1:8443", "--name", "gw01.park7.example", "--yes", *more]
    )  # fmt: skip


def test_setup_makes_a_certificate_and_a_hash_that_only_the_user_reads(config, tmp_path, capsys) -> None:
    assert setup(config) == 0
    said = capsys.readouterr().out
    secret = tmp_path / "secret"
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in secret.iterdir()} == {
        "certificate.pem": 0o600, "key.pem": 0o600, "password": 0o600
    }  # fmt: skip
    assert PASSWORD not in (secret / "password").read_text() and PASSWORD not in said
    found = x509.load_pem_x509_certificate((secret / "certificate.pem").read_bytes())
    names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert {"localhost", "gw01.park7.example"} <= set(names.get_values_for_type(x509.DNSName))
    digest = hashlib.sha256(found.public_bytes(Encoding.DER)).hexdigest().upper()
    assert re.sub("[^0-9A-F]", "", "".join(re.findall(r"^  ([0-9A-F:]+)$", said, re.MULTILINE))) == digest
    assert "▀" in said, "the fingerprint as QR"
    assert outcome(["check", "-c", str(config), "--json"]) == 0
    before = (secret / "certificate.pem").read_bytes()
    assert setup(config) == 0 and (secret / "certificate.pem").read_bytes() != before, "again is another one"


@pytest.mark.parametrize(("listen", "lines"), [
    (
        "0.0.0.0:{}",
        "The page listens on every address of this machine, port {}\nThe page is at https://gw01:{}/. Press Ctrl-C",
    ),
    ("[::1]:{}", "The page is at https://[::1]:{}/. Press Ctrl-C"),
])  # fmt: skip
def test_it_says_an_address_that_a_browser_opens(config, tmp_path, capsys, monkeypatch, listen, lines) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "gw01")
    monkeypatch.setattr("agent.web.server.serve", lambda *_: None)
    port = free_port()
    assert again(config, "--listen", listen.format(port)) == 0
    capsys.readouterr()
    assert outcome(["web", "-c", str(config)]) == 0
    assert capsys.readouterr().err.startswith(lines.replace("{}", str(port)))


def again(config: Path, *more: str) -> int:
    folder = config.parent / "secret"
    first = str(config.parent / "first")
    command = ["web", "--setup", "-c", str(config), "--folder", str(folder), "--password-file", first, "--yes"]
    return outcome([*command, *more])


def certificate_names(config: Path) -> set[str]:
    found = x509.load_pem_x509_certificate((config.parent / "secret/certificate.pem").read_bytes())
    names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return {*names.get_values_for_type(x509.DNSName), *map(str, names.get_values_for_type(x509.IPAddress))}


def test_setup_again_keeps_address_and_names_and_says_so(config, tmp_path, capsys) -> None:
    """Else a new password would open a page of this machine alone to the network."""
    table = tmp_path / "conf.d/web.toml"
    assert setup(config, "--name", "192.0.2.77") == 0
    assert "will listen on 127.0.0.1:8443" in capsys.readouterr().err
    assert again(config) == 0
    said = capsys.readouterr().err
    assert 'listen = "127.0.0.1:8443"' in table.read_text() and "will keep the address 127.0.0.1:8443" in said
    assert "will keep these names of the earlier certificate: gw01.park7.example, 192.0.2.77" in said
    assert {"gw01.park7.example", "192.0.2.77", "localhost"} <= certificate_names(config)
    assert again(config, "--listen", "[::]:8444", "--name", "gw02.park7.example") == 0
    assert "will change the address from 127.0.0.1:8443 to [::]:8444" in capsys.readouterr().err
    assert 'listen = "[::]:8444"' in table.read_text()
    assert {"gw01.park7.example", "gw02.park7.example", "192.0.2.77"} <= certificate_names(config)
    table.write_text(table.read_text().replace('listen = "[::]:8444"\n', ""))
    assert again(config, "--lang", "zh") == 0 and "保留监听地址 127.0.0.1:8080" in capsys.readouterr().err
    assert "gw01.park7.example" in certificate_names(config)


def test_setup_again_says_what_it_keeps_before_it_asks(config, tmp_path, capsys) -> None:
    assert setup(config) == 0
    before = (tmp_path / "conf.d/web.toml").read_bytes()
    capsys.readouterr()
    first = str(tmp_path / "first")
    command = ["web", "--setup", "-c", str(config), "--folder", str(tmp_path / "secret"), "--password-file", first]
    assert outcome(command) == 2, "nobody is here to answer"
    said = capsys.readouterr().err
    assert said.index("will keep the address") < said.index("will write ") < said.index("error: ")
    assert (tmp_path / "conf.d/web.toml").read_bytes() == before


@pytest.mark.parametrize("text", ["[web", "web = 3\n", '[web]\nlisten = "gw01"\n'])
def test_setup_again_does_not_guess_what_an_earlier_table_meant(config, tmp_path, capsys, text: str) -> None:
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d/web.toml").write_text(text)
    assert again(config) == 1 and "Correct this file, or remove this file" in capsys.readouterr().err
    assert (tmp_path / "conf.d/web.toml").read_text() == text


def test_setup_refuses_what_would_not_work(config, tmp_path, capsys) -> None:
    (tmp_path / "first").write_text("short\n")
    assert setup(config) == 2 and "too short" in capsys.readouterr().err
    (tmp_path / "first").write_text(PASSWORD)
    assert setup(config, "--name", "a b") == 2 and "invalid name" in capsys.readouterr().err
    assert outcome(["web", "--setup", "-c", str(tmp_path / "none.toml"), "--yes"]) == 2
    assert outcome(["web", "--setup", "-c", str(config), "--listen", "gw01", "--yes"]) == 2
    config.write_text(SITE + "[web]\n")
    assert setup(config) == 1 and "this file already has the table [web]" in capsys.readouterr().err
    assert not (tmp_path / "secret").exists() and not (tmp_path / "conf.d").exists()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: path.write_text("[site\n"), "is not valid TOML"),
        (lambda path: path.write_bytes(b"\xff"), "is not valid TOML"),
        (lambda path: path.mkdir(), "cannot be read: Is a directory"),
        (lambda path: path.symlink_to("none"), "cannot be read: No such file or directory"),
        (lambda path: path.write_text("[web]\n"), "this file already has the table [web]"),
    ],
)
def test_setup_names_the_file_of_conf_d_that_is_wrong(config, tmp_path, capsys, make, words: str) -> None:
    """Before, the error named the main file, in which there was nothing to correct."""
    path = tmp_path / "conf.d/bad.toml"
    path.parent.mkdir()
    make(path)
    assert setup(config) == 1 and f"{path}: {words}" in capsys.readouterr().err


def test_it_does_not_listen_for_others_without_tls_and_password(config, tmp_path, capsys) -> None:
    assert outcome(["web", "-c", str(config), "--listen", "0.0.0.0:8443"]) == 2
    assert "the page needs a certificate with its key, and a password" in capsys.readouterr().err
    config.write_text(SITE + '[web]\npassword_file = "first"\n')
    assert outcome(["web", "-c", str(config)]) == 3
    said = capsys.readouterr().err
    assert "not the hash of a password" in said and PASSWORD not in said
    config.write_text(SITE + '[web]\ncertificate_file = "first"\nkey_file = "first"\n')
    assert (
        outcome(["web", "-c", str(config)]) == 3
        and "is not a PEM certificate that matches its key" in capsys.readouterr().err
    )
    with socket.create_server(("127.0.0.1", 0)) as taken:
        config.write_text(SITE + f'[web]\nlisten = "127.0.0.1:{taken.getsockname()[1]}"\n')
        assert (
            outcome(["web", "-c", str(config)]) == 1
            and "Another program uses this address and port" in capsys.readouterr().err
        )


def test_over_tls_with_a_login(config, tmp_path, page, traces) -> None:
    assert setup(config) == 0
    port = page()
    trust = ssl.create_default_context(cafile=str(tmp_path / "secret/certificate.pem"))

    def ask(method: str, path: str, body: str = "", **headers: str) -> http.client.HTTPResponse:
        line = http.client.HTTPSConnection("localhost", port, context=trust, timeout=60)
        line.request(method, path, body, headers)
        answer = line.getresponse()
        answer.text = answer.read().decode()  # type: ignore[attr-defined]
        return answer

    assert ask("GET", "/").getheader("location") == "/login"
    form = {"content-type": "application/x-www-form-urlencoded", "origin": f"https://localhost:{port}"}
    assert ask("POST", "/login", urlencode({"password": "wrong"}), **form).status == 403
    answer = ask("POST", "/login", urlencode({"password": PASSWORD}), **form)
    cookie = answer.getheader("set-cookie") or ""
    assert answer.status == 303 and cookie.startswith("__Host-meterhouse=") and "Secure" in cookie
    assert "inv1" in ask("GET", "/", cookie=cookie.partition(";")[0]).text  # type: ignore[attr-defined]
    with pytest.raises((OSError, http.client.HTTPException)):  # not in clear
        line = http.client.HTTPConnection("localhost", port, timeout=60)
        line.request("GET", "/")
        line.getresponse()


def test_check_warns_of_a_certificate_that_has_expired_and_names_the_line_of_a_file(config, tmp_path, capsys) -> None:
    assert setup(config) == 0
    table = tmp_path / "conf.d/web.toml"
    (tmp_path / "secret/certificate.pem").write_bytes(certificate(-3))
    capsys.readouterr()
    assert outcome(["check", "-c", str(config)]) == 0
    said = capsys.readouterr()
    assert re.search(r"web\.toml:\d+: web\.certificate_file: .+ expired 3 days ago", said.out + said.err)
    assert setup(config) == 0
    for key in ("key", "password"):
        file = next((tmp_path / "secret").glob(f"*{key}*"))
        file.chmod(0o644)
        assert [note.what for note in load_page_config(config).notes] == [
            f"others may read or change {file} (mode 0644)"
        ]
        file.chmod(0o600)
    for key in ("certificate", "key", "password"):
        text = table.read_text()
        table.write_text(re.sub(rf"{key}_file = .*", f'{key}_file = "/nope"', text))
        assert outcome(["web", "-c", str(config)]) == 3
        assert re.search(rf"web\.toml:\d+: web\.{key}_file: /nope ", capsys.readouterr().err), key
        table.write_text(text)


def test_an_old_certificate_of_the_page_is_a_finding() -> None:
    moment = Moment(time=1e9)
    for days, level, text, verdict in (
        (-2, "error", "expired 2 days ago", "1 fault"),
        (3, "warning", "expires in 3 days", "No faults, 1 warning"),
        (31, None, "", "All is well"),
    ):
        view = now_view(moment, "en", {}, 1e9 + days * 86_400)
        assert [(one["level"], text in one["text"]) for one in view["findings"]] == ([(level, True)] if level else [])
        assert view["verdict"][1] == verdict


def test_a_slow_client_is_closed_and_many_do_not_lock_others_out(config, page, traces) -> None:
    """The wait is for the server's close: whoever sends half a request for ever would meet the deadline instead."""
    port = page()
    with contextlib.ExitStack() as stack:
        slow = [stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=60)) for _ in range(30)]
        for n, sock in enumerate(slow):
            sock.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"a" * n)
        with socket.create_connection(("127.0.0.1", port), timeout=60) as other:
            other.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
            assert other.recv(15).startswith(b"HTTP/1.1 200")
        for sock in slow:
            with contextlib.suppress(ConnectionResetError):
                assert sock.recv(1) == b""


def test_connections_without_a_handshake_lock_no_other_address_out(config, tmp_path, page, traces) -> None:
    """They are counted before TLS begins, those too many are closed at once, and the others after ten seconds."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 512:
        pytest.skip(f"only {hard} open files are allowed here (ulimit -n 1024)")
    if soft != resource.RLIM_INFINITY and soft < 512:  # our ends of the connections
        resource.setrlimit(resource.RLIMIT_NOFILE, (512, hard))
    assert setup(config) == 0
    port = page()
    trust = ssl.create_default_context(cafile=str(tmp_path / "secret/certificate.pem"))
    resource.prlimit(pid_of(port), resource.RLIMIT_NOFILE, (256, 256))
    with contextlib.ExitStack() as stack:
        idle = [stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=60)) for _ in range(300)]
        raw = socket.create_connection(("127.0.0.1", port), timeout=60, source_address=("127.0.0.2", 0))
        with raw, trust.wrap_socket(raw, server_hostname="localhost") as other:
            other.sendall(b"GET /login HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            assert other.recv(15).startswith(b"HTTP/1.1 200")
        for sock in idle:
            with contextlib.suppress(ConnectionResetError):
                assert sock.recv(1) == b""
    assert "Traceback" not in (tmp_path / "log").read_text()
    with (
        socket.create_connection(("127.0.0.1", port), timeout=60) as raw,
        trust.wrap_socket(raw, server_hostname="localhost") as again,
    ):
        again.sendall(b"GET /login HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert again.recv(15).startswith(b"HTTP/1.1 200"), "those that were closed are forgotten"


def request(sock: socket.socket) -> bytes:
    """One request on a connection that stays open; b"" where it was closed."""
    with contextlib.suppress(OSError):  # of TLS as well
        sock.sendall(b"GET /static/icon.svg HTTP/1.1\r\nHost: localhost\r\n\r\n")
        answer = http.client.HTTPResponse(sock)
        answer.begin()
        answer.read()
        return str(answer.status).encode()
    return b""


@pytest.mark.parametrize("tls", [False, True])
def test_an_address_that_holds_its_limit_locks_nobody_out(config, tmp_path, page, traces, tls: bool) -> None:
    """Also not its own: on loopback one address is everybody. Who has been idle for longest makes room."""
    if tls:
        assert setup(config) == 0
    port = page()
    trust = ssl.create_default_context(cafile=str(tmp_path / "secret/certificate.pem")) if tls else None
    with contextlib.ExitStack() as stack:

        def connect(address: str) -> socket.socket:
            sock = stack.enter_context(
                socket.create_connection(("127.0.0.1", port), timeout=60, source_address=(address, 0))
            )
            if trust is not None:
                sock = stack.enter_context(trust.wrap_socket(sock, server_hostname="localhost"))
            return sock

        viewer = connect("127.0.0.1")  # came first, and goes on looking
        assert request(viewer) == b"200"
        held = []
        for _ in range(2 * MOST_OF_ONE_ADDRESS):
            held.append(connect("127.0.0.1"))
            assert request(held[-1]) == b"200" and request(viewer) == b"200"
        for address in ("127.0.0.5", "127.0.0.6"):
            assert request(connect(address)) == b"200"
        assert request(held[0]) == b"" and request(connect("127.0.0.1")) == b"200"
    assert "Traceback" not in (tmp_path / "log").read_text()


def test_connections_that_are_served_do_not_make_room(monkeypatch) -> None:
    with contextlib.ExitStack() as stack, BoundedListener(socket.AF_INET) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(8)
        address = listener.getsockname()

        def connect(source: str) -> tuple[socket.socket, Any]:
            other = stack.enter_context(socket.create_connection(address, 60, (source, 0)))
            made = stack.enter_context(listener.accept()[0])
            return other, made

        first, *more = [connect("127.0.0.1") for _ in range(MOST_OF_ONE_ADDRESS)]
        for _, made in (first, *more):
            made.served = lambda: True
        with pytest.raises(ConnectionAbortedError):
            connect("127.0.0.1")
        connect("127.0.0.5")
        more[3][1].served = more[7][1].served = None
        listener.used(more[3][1])
        connect("127.0.0.1")
        assert more[7][0].recv(1) == b"", "the other one is used"
        more[7][1].close()
        connect("127.0.0.1")
        assert more[3][0].recv(1) == b"", "told to end"
        more[3][1].close()
        for _, made in (first, *more):
            made.served = None
        for _ in range(MOST_ENDING):
            connect("127.0.0.1")
        with pytest.raises(BlockingIOError):  # until the loop has closed those that make room
            listener.accept()
        for _, made in (first, *more):
            made.close()
        monkeypatch.setattr("agent.web.server.MOST_OF_ALL", listener._count + 20)
        crowd = [connect("127.0.1.1") for _ in range(20)]
        connect("127.0.1.2")
        assert crowd[0][0].recv(1) == b"", "of the address that holds most"
    assert listener._count == 0 and not listener._of


def test_idle_connections_keep_no_memory_once_they_end(config, tmp_path, monkeypatch) -> None:
    """Without the garbage collector: what ends by itself, by its deadline or by nonsense is freed at once."""
    assert setup(config) == 0
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "secret/certificate.pem", tmp_path / "secret/key.pem")
    live: weakref.WeakSet[BoundedTls] = weakref.WeakSet()
    made = 0

    class Counted(BoundedTls):
        def __init__(self, *args: Any, **more: Any) -> None:
            nonlocal made
            super().__init__(*args, **more)
            assert len(self._ssl_buffer) <= 16 << 10
            live.add(self)
            made += 1

    async def reached(state: Callable[[], bool]) -> bool:
        for _ in range(600):
            if state():
                return True
            await asyncio.sleep(0.1)
        return False

    async def bursts() -> None:
        with BoundedListener(socket.AF_INET) as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen(128)
            address = listener.getsockname()
            loop = asyncio.get_running_loop()
            server = await loop.create_server(
                asyncio.Protocol, sock=listener, ssl=context, ssl_handshake_timeout=0.5
            )  # fmt: skip
            for burst, data in enumerate((b"", b"GET / HTTP/1.1\r\n\r\n", None), 1):
                with contextlib.ExitStack() as stack:
                    for n in range(60):
                        sock = stack.enter_context(socket.create_connection(address, 30, (f"127.0.1.{n % 6 + 1}", 0)))
                        sock.sendall(data or b"")
                    assert await reached(lambda burst=burst: made == burst * 60)
                    assert data is not None or await reached(lambda: not live), "after their deadline"
                assert await reached(lambda: not live), data
            server.close()

    monkeypatch.setattr("agent.web.server.BoundedTls", Counted)
    gc.disable()
    try:
        with asyncio.Runner(loop_factory=PageLoop) as runner:
            runner.run(bursts())
    finally:
        gc.enable()


HOST = b"Host: 127.0.0.1\r\n"
BROKEN = (
    b"\x16\x03\x01\x02\x00\x01",
    b"GET\r\n\r\n",
    b"GET / HTTP/1.1\r\n\r\n",
    b"GET / HTTP/9.9\r\nHost: x\r\n\r\n",
    b"GET / HTTP/1.1\r\n" + HOST + b"Host: evil\r\n\r\n",
    b"GET / HTTP/1.1\r\n" + HOST + b"A: " + b"a" * 70_000 + b"\r\n\r\n",
    b"GET http://evil/ HTTP/1.1\r\nHost: evil\r\n\r\n",
    b"\x00" * 100_000,
    b"GET /%ff%fe HTTP/1.1\r\n" + HOST + b"\r\n",
    b"GET / HTTP/1.1\r\n" + HOST + b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: x\r\n\r\n",
    b"POST /login HTTP/1.1\r\n" + HOST + b"Content-Length: 10\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
)


def test_broken_requests_are_answered_or_closed(config, page, traces) -> None:
    port = page()
    for data in BROKEN:
        with socket.create_connection(("127.0.0.1", port), timeout=60) as sock, contextlib.suppress(ConnectionError):
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
            answer = b"".join(iter(lambda sock=sock: sock.recv(4096), b""))
            assert not answer or re.match(rb"HTTP/1\.1 (200|303|400|404|405|413|414|421|431)", answer), answer[:100]
    line = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    line.request("GET", "/")
    assert line.getresponse().status == 200, "it serves on"


def test_it_opens_nothing_of_the_agent_for_writing(config, page, traces) -> None:
    """The ring is mapped read-only, and no file but its log is open for writing."""
    port = page()
    line = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    line.request("GET", "/")
    assert line.getresponse().status == 200
    pid = pid_of(port)
    maps = [row for row in Path(f"/proc/{pid}/maps").read_text().splitlines() if str(traces.folder) in row]
    assert maps and all(row.split()[1].startswith("r--") for row in maps)
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):
            target = os.readlink(f"/proc/{pid}/fd/{fd}")
            flags = int(re.search(r"flags:\s*(\d+)", Path(f"/proc/{pid}/fdinfo/{fd}").read_text())[1], 8)  # type: ignore[index]
            assert not target.startswith(str(traces.folder)) or flags & os.O_ACCMODE == os.O_RDONLY, target


def pid_of(port: int) -> int:
    """Of the page that listens there."""
    return next(int(p) for p in os.listdir("/proc") if p.isdigit() and f"127.0.0.1:{port}".encode() in _cmdline(p))


def _cmdline(pid: str) -> bytes:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ")
    return b""


LOGINS = """
import re, sys, threading
from pathlib import Path
from agent.web import server
from agent.web.command import web
from agent.web.password import PasswordHash

def resident_kib():
    return int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

def serve(*_):
    before, hashed = resident_kib(), PasswordHash(b"salt", bytes(32))
    for _ in range(4):
        thread = threading.Thread(target=hashed.matches, args=("password",))
        thread.start()
        thread.join()
    print(resident_kib() - before)

server.serve = serve
web.main(["-c", sys.argv[1], "--listen", "127.0.0.1:" + sys.argv[2]], standalone_mode=False)
"""


def test_logins_leave_no_memory_behind(config: Path) -> None:
    """The 16 MB of a check go back to the kernel; glibc keeps them otherwise, in an arena of each thread."""
    done = subprocess.run([sys.executable, "-c", LOGINS, config, str(free_port())], stdout=subprocess.PIPE, check=True)
    assert int(done.stdout) < 4096


def test_a_python_whose_asyncio_has_changed_is_refused_before_the_page_serves(config, monkeypatch, capsys) -> None:
    assert setup(config) == 0
    monkeypatch.delattr(sslproto.SSLProtocol, "_wakeup_waiter")
    capsys.readouterr()
    assert outcome(["web", "-c", str(config)]) == 1
    said = capsys.readouterr().err
    assert "its asyncio has no _wakeup_waiter" in said and "Use Python 3.11, 3.12 or 3.13" in said
    assert "Traceback" not in said
