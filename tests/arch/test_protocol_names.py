"""A protocol is named in its own folder, in the registry, in profiles, tests and docs: nowhere else.

What is listed here still names one; the list may only become shorter. docs/decisions/0029 says what stays, and why.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
NAMES = re.compile(r"modbus|dlt645|cjt188|mbus|sunspec", re.IGNORECASE)
OWN = re.compile(r"drivers/(modbus|dlt645|cjt188|mbus|sunspec)/|drivers/registry\.py\Z")
LISTED = """
agent/cli/adopt.py
agent/cli/check.py
agent/cli/chinese/config.txt
agent/cli/chinese/field.txt
agent/cli/chinese/profile.txt
agent/cli/decode.py
agent/cli/doctor/host.py
agent/cli/identify.py
agent/cli/profile_template.py
agent/cli/read.py
agent/cli/read_registers.py
agent/cli/scan.py
agent/cli/simulate.py
agent/cli/target.py
agent/cli/toml_snippet.py
agent/config/devices.py
agent/config/lines.py
agent/config/parsers.py
agent/config/profiles.py
agent/intervals/tracked_points.py
drivers/explain.py
drivers/line/__init__.py
drivers/line/bytelink.py
drivers/line/config.py
drivers/line/mbap.py
drivers/line/modbus_frames.py
drivers/line/owner.py
drivers/meter_device.py
drivers/model.py
drivers/plan/blocks.py
drivers/plan/holes.py
drivers/plan/timing.py
drivers/profile/head.py
drivers/profile/points.py
drivers/profile/register_layout.py
drivers/profile/review.py
drivers/protocol.py
drivers/scan/caching_line.py
drivers/scan/search.py
drivers/serial_setting.py
drivers/sim/bus.py
drivers/sim/device.py
drivers/sim/faults.py
drivers/sim/framing.py
drivers/sim/image.py
drivers/sim/park.py
drivers/sim/rtu.py
drivers/sim/slots.py
drivers/sim/tcp.py
"""


def named() -> set[str]:
    """The files of agent/ and drivers/ that name a protocol and are not its own."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "agent", "drivers"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    paths = [path for path in listed.stdout.split("\0") if path and not OWN.match(path) and (ROOT / path).is_file()]
    return {path for path in paths if NAMES.search((ROOT / path).read_text("utf-8"))}


def test_no_other_file_names_a_protocol() -> None:
    assert not (more := sorted(named() - set(LISTED.split()))), (
        f"{more} name a protocol: ask drivers/registry.py instead"
    )


def test_the_list_is_as_short_as_it_can_be() -> None:
    assert not (gone := sorted(set(LISTED.split()) - named())), (
        f"{gone} name no protocol any more: take them off the list"
    )
