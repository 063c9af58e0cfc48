"""A protocol is named in its own folder, in the registry, in profiles, tests and docs: nowhere else.

docs/decisions/0029 says how the others ask.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from drivers.registry import PACKAGES, find_protocol

ROOT = Path(__file__).parents[2]
LOOKED_AT = ("agent", "drivers", "ext", "receiver", "tools")
EXAMPLES = re.compile(r"^ +meterhouse .*$", re.MULTILINE)  # of a command's help: they are docs
OWN = re.compile(rf"drivers/({'|'.join(PACKAGES)})/|drivers/registry\.py\Z")
# as code writes them and as people do: mbus, M-Bus, DL/T 645, CJ/T 188, IEC 62056-21 and its older number
NAMES = re.compile(
    r"modbus|dl[/_-]?t[ _-]?645|cj[/_-]?t[ _-]?188|(?<![a-z])m[-_]?bus|sunspec|iec[ _-]?(62056|1107)", re.IGNORECASE
)


def named() -> set[str]:
    """The files of the source that name a protocol and are not its own: in code, texts, comments and docstrings."""
    listed = subprocess.run(["git", "ls-files", "-z", *LOOKED_AT], cwd=ROOT, capture_output=True, text=True, check=True)
    paths = [path for path in listed.stdout.split("\0") if path and not OWN.match(path) and (ROOT / path).is_file()]
    return {path for path in paths if NAMES.search(EXAMPLES.sub("", (ROOT / path).read_text("utf-8", "replace")))}


def test_no_other_file_names_a_protocol() -> None:
    assert not (found := sorted(named())), f"{found} name a protocol: ask drivers/registry.py instead"


@pytest.mark.parametrize("name", PACKAGES)
def test_the_words_that_are_looked_for_are_those_of_the_protocols(name: str) -> None:
    protocol = find_protocol(name)
    assert protocol is not None
    assert all(NAMES.search(word) for word in (name, protocol.title, PACKAGES[name]))
