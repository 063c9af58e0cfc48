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
EXAMPLES = re.compile(r"^ +meterhouse .*$|is_unspecified", re.MULTILINE)  # of a command's help: they are docs
OWN = re.compile(rf"drivers/({'|'.join(PACKAGES)})/|drivers/registry\.py\Z")
OLDER = ("iec1107",)  # other names that standards had


def names() -> re.Pattern[str]:
    """As code writes them and as people do: mbus, M-Bus, DL/T 645, IEC 62056-21."""
    descriptors = [found for name in PACKAGES if (found := find_protocol(name)) is not None]
    words = {*PACKAGES, *(found.title for found in descriptors), *OLDER}
    letters = [re.sub(r"[^a-z0-9]", "", word.lower()) for word in words]
    spelled = [("(?<![a-z])" if len(word) < 5 else "") + "[/_ -]?".join(word) for word in letters]
    return re.compile("|".join(spelled), re.IGNORECASE)


def named() -> set[str]:
    """The files of the source that name a protocol and are not its own: in code, texts, comments and docstrings."""
    pattern = names()
    listed = subprocess.run(["git", "ls-files", "-z", *LOOKED_AT], cwd=ROOT, capture_output=True, text=True, check=True)
    paths = [path for path in listed.stdout.split("\0") if path and not OWN.match(path) and (ROOT / path).is_file()]
    return {path for path in paths if pattern.search(EXAMPLES.sub("", (ROOT / path).read_text("utf-8", "replace")))}


def test_no_other_file_names_a_protocol() -> None:
    assert not (found := sorted(named())), f"{found} name a protocol: ask drivers/registry.py instead"


@pytest.mark.parametrize(
    "text", ["pymodbus", "an M-Bus meter", "DL/T 645", "CJ_T188", "IEC 62056-21", "SunSpec's", "IEC 1107"]
)
def test_a_name_is_found_however_it_is_spelled(text: str) -> None:
    assert names().search(text)


@pytest.mark.parametrize("text", ["from bus to bus", "the modem's bus", "an album", "62056"])
def test_other_words_are_not_names(text: str) -> None:
    assert not names().search(text)
