"""What paho never uses is not in memory, and is there for whoever wants it."""

from __future__ import annotations

import subprocess
import sys

LOOK = """
import sys
import agent.uplink, agent.uplink.mqtt
assert not {"http.client", "email", "msgspec"} & set(sys.modules)
from urllib.request import Request
import urllib.request
assert urllib.request.urlopen.__module__ == Request.__module__ == "urllib.request"
assert "http.client" in sys.modules
"""


def test_the_uplink_brings_no_http_and_others_can_have_it() -> None:
    subprocess.run([sys.executable, "-c", LOOK], check=True, timeout=60)
