"""Whatever stands in a profile, it loads or is a complaint; and the page about profiles names every key."""

from __future__ import annotations

import re
import tomllib
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.model import ProfileError
from drivers.profile import find_profile, load_profile
from drivers.profile.head import HEAD_KEYS, KINDS, LIMIT_KEYS
from drivers.profile.points import OTHER_KEYS, REGISTER_KEYS
from drivers.profile.register_layout import REGISTERS

SOURCES = ("generic/heat-recovery-plc", "goodwe/dt", "acrel/adl400")
VALUES = st.one_of(
    st.integers(-(2**40), 2**40),
    st.sampled_from([0, 1, 2, 3, 4, 125, 65535]),
    st.booleans(),
    st.decimals(-1000, 1000, places=2),
    st.sampled_from(["", "u16", "f32", "ABCD", "kWh", "{n}", "ac.power.active", "x.y", "20 ms", "*", "\x00", "l1"]),
    st.lists(st.integers(-5, 70000), max_size=3),
    st.dictionaries(st.sampled_from(["0", "a", "point", "0x10"]), st.integers(0, 9), max_size=2),
    st.just([{}]),
)


def toml(value: Any) -> str:
    """A value as TOML writes it, tables inline."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return '"' + "".join(c if c >= " " and c not in '"\\' else f"\\u{ord(c):04x}" for c in value) + '"'
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{toml(k)} = {toml(v)}" for k, v in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return f"{value:f}" if isinstance(value, Decimal) else str(value)


def paths(value: Any, here: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [p for k, v in items for p in ((*here, k), *paths(v, (*here, k)))]


DOCUMENTS = [tomllib.loads(find_profile(s).read_text("utf-8"), parse_float=Decimal) for s in SOURCES]


@given(st.data())
def test_no_value_anywhere_is_more_than_a_complaint(tmp_path: Path, data: st.DataObject) -> None:
    import copy

    document = copy.deepcopy(data.draw(st.sampled_from(DOCUMENTS)))
    for _ in range(data.draw(st.integers(1, 3))):
        path = data.draw(st.sampled_from(paths(document)))
        inner: Any = document
        try:
            for step in path[:-1]:
                inner = inner[step]
            if data.draw(st.booleans()):
                inner[path[-1]] = copy.deepcopy(data.draw(VALUES))
            elif isinstance(inner, dict):
                key = data.draw(st.sampled_from([*REGISTER_KEYS, *HEAD_KEYS, "nonsense"]))
                inner[key] = copy.deepcopy(data.draw(VALUES))
        except (KeyError, IndexError, TypeError):
            continue
    file = tmp_path / "fuzz" / "one.toml"
    file.parent.mkdir(exist_ok=True)
    file.write_text("".join(f"{toml(k)} = {toml(v)}\n" for k, v in document.items()))
    try:
        profile = load_profile(file)
        profile.resolve(firmware="1.2", identity={"device.serial": "X"})
    except ProfileError as error:
        for complaint in error.complaints:
            assert (
                re.match(r"[^\n]*fuzz/one\.toml(:\d+)?(: [^\n]*)?$", complaint.where) or "parameter" in complaint.what
            )


def test_the_page_names_every_key() -> None:
    page = Path(__file__).parents[2] / "docs" / "profiles.md"
    if not page.is_file():
        pytest.skip("no docs beside the tests")
    text = page.read_text("utf-8")
    known = set(re.findall(r"`([a-z_]+)`", text)) | set(re.findall(r"\b([a-z]+)\b", text))
    keys = {*HEAD_KEYS, *REGISTER_KEYS, *OTHER_KEYS, *LIMIT_KEYS, *KINDS, "holes", "max_gap", "retries", "max_words"}
    assert not {k for k in keys if k not in known and f"`{k}`" not in text}
    assert all(t in text for t in REGISTERS if t != "bits")
