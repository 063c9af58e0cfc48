"""Certificates of destinations: replaced files and another configuration are noticed by their stamps."""

from __future__ import annotations

import os
import time
from pathlib import Path

from agent.certificates import expiries, stamps
from agent.settings import UplinkConfig
from tests.kits.authority import Authority


def test_what_is_replaced_has_another_stamp(tmp_path: Path) -> None:
    ca = Authority(tmp_path, "ca")
    ours, _ = ca.issue("ours", days=300)
    config = [
        UplinkConfig(name="platform", host="h", port=1, url="mqtts://h", tls=True, ca_file=ca.file, cert_file=ours)
    ]
    before = stamps(config)
    assert stamps(config) == before and [one.destination for one in expiries(config)] == ["platform", "platform"]
    newer, _ = ca.issue("newer", days=9)
    newer.replace(ours)
    os.utime(ours, ns=(7, 7))
    assert stamps(config) != before and round(expiries(config)[0].days(time.time()) or 0) == 9
    assert stamps(config[:0]) == []
    ours.unlink()
    assert ("platform", str(ours), -1) in stamps(config)
