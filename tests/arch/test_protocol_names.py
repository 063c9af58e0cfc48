"""A protocol is named in its own folder, in the registry, in profiles, tests and docs: nowhere else.

What is listed here still names one; the list may only become shorter. docs/decisions/0029 says what stays, and why.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
EXAMPLES = re.compile(r"^ +meterhouse .*$", re.MULTILINE)  # of a command's help: they are docs
NAMES = re.compile(r"modbus|dlt645|cjt188|mbus|sunspec|iec62056", re.IGNORECASE)
OWN = re.compile(r"drivers/(modbus|dlt645|cjt188|mbus|sunspec|iec62056)/|drivers/registry\.py\Z")
LISTED = """
agent/cli/doctor/host.py
drivers/serial_setting.py
drivers/sim/slots.py
"""


def named() -> set[str]:
    """The files of agent/ and drivers/ that name a protocol and are not its own."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "agent", "drivers"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    paths = [path for path in listed.stdout.split("\0") if path and not OWN.match(path) and (ROOT / path).is_file()]
    return {path for path in paths if NAMES.search(EXAMPLES.sub("", (ROOT / path).read_text("utf-8")))}


def test_no_other_file_names_a_protocol() -> None:
    assert not (more := sorted(named() - set(LISTED.split()))), (
        f"{more} name a protocol: ask drivers/registry.py instead"
    )


def test_the_list_is_as_short_as_it_can_be() -> None:
    assert not (gone := sorted(set(LISTED.split()) - named())), (
        f"{gone} name no protocol any more: take them off the list"
    )
