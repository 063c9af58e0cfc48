"""What a running agent keeps out of its memory (docs/decisions/0011-memory-use.md)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from agent.keys import create_key
from tests.kits.broker import free_port, until

ROOT = Path(__file__).resolve().parents[2]
# modules that only other commands, rare messages or hints need; together they would take 20 MB
UNUSED = {
    "bz2", "cryptography.hazmat.primitives.serialization", "cryptography.x509", "email", "http", "importlib.metadata",
    "jinja2", "lzma", "msgspec", "multiprocessing", "pika", "pkcs11", "psycopg", "pymodbus.client", "pymodbus.server",
    "pymodbus.transport", "rich", "segno", "serial", "shutil", "sqlite_utils", "starlette", "statistics", "sunspec2",
    "tempfile", "textual", "urllib.error", "uvicorn", "xml",
}  # fmt: skip
RUN = """
import json, sys
from agent.cli.main import main
try:
    main(["run", "-c", sys.argv[1]])
except SystemExit:
    pass
print("MODULES", json.dumps(sorted(sys.modules)))
"""


def python(code: str) -> str:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=env, timeout=200, check=True
    )
    return done.stdout


@pytest.mark.process
def test_a_running_agent_has_imported_nothing_that_only_others_need(tmp_path: Path) -> None:
    """With a device and a broker that are both out of reach, so that it has tried both and has stated the gaps."""
    create_key(tmp_path / "signing.key", 0)
    config = tmp_path / "agent.toml"
    config.write_text(
        '[site]\nid = "park7"\ngateway = "gw01"\ntimezone = "UTC"\n[key]\nfile = "signing.key"\n'
        '[paths]\nstate_dir = "state"\nruntime_dir = "run"\n[pack]\nevery = "1 s"\n'
        f'[[uplink]]\nname = "platform"\nurl = "mqtt://127.0.0.1:{free_port()}"\n'
        f'[[line]]\nname = "bus"\nurl = "modbus-tcp://127.0.0.1:{free_port()}"\n'
        '[[device]]\nname = "m1"\nline = "bus"\naddress = "1"\nprofile = "generic/float100"\n'
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    log = tmp_path / "log"
    with log.open("wb") as said:
        agent = subprocess.Popen([sys.executable, "-c", RUN, config], stdout=subprocess.PIPE, stderr=said, env=env)
    try:
        until((tmp_path / "run" / "snapshot.json").exists, 60, what=log.read_text)
        until(lambda: "platform" in log.read_text() and "bus" in log.read_text(), 60, what=log.read_text)
        agent.send_signal(signal.SIGTERM)
        out = agent.communicate(timeout=60)[0].decode()
    finally:
        agent.kill()
        agent.wait()
    loaded = set(json.loads(out.partition("MODULES")[2]))
    assert {"agent.uplink.mqtt", "drivers.modbus.device", "paho.mqtt.client", "pymodbus.pdu"} <= loaded
    assert sorted(loaded & UNUSED) == []


def test_the_module_that_paho_does_not_need_is_loaded_when_somebody_uses_it() -> None:
    """An earlier stand-in broke imports that came later."""
    code = (
        "import sys, agent.uplink, paho.mqtt.client as paho\n"
        "assert 'http' not in sys.modules\n"
        "import urllib.request as early\n"
        "assert 'http' not in sys.modules\n"
        "assert not hasattr(early, '__path__') and 'http' not in sys.modules\n"
        "from urllib.request import Request, urlopen\n"
        "import urllib.request\n"
        "assert early.urlopen is urllib.request.urlopen is urlopen is paho.urllib.request.urlopen\n"
        "assert urllib.request is sys.modules['urllib.request'] is not early\n"
        "assert Request('http://127.0.0.1/').host == '127.0.0.1'\n"
        "print(urllib.request.__file__)"
    )
    assert python(code).rstrip().endswith("request.py")


def test_two_uplinks_that_ask_for_a_proxy_at_once_both_get_an_answer() -> None:
    code = (
        "import threading, agent.uplink, paho.mqtt.client as paho\n"
        "at_once, found = threading.Barrier(8), []\n"
        "def ask():\n at_once.wait()\n found.append(callable(paho.urllib.request.getproxies))\n"
        "threads = [threading.Thread(target=ask) for _ in range(8)]\n"
        "[one.start() for one in threads]; [one.join() for one in threads]\n"
        "print(found.count(True))"
    )
    assert python(code).strip() == "8"


def test_a_module_that_is_loaded_already_is_not_replaced() -> None:
    code = "import urllib.request as first, agent.uplink, sys; print(sys.modules['urllib.request'] is first)"
    assert python(code).strip() == "True"
