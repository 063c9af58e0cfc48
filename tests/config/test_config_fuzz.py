"""Whatever stands in the file: a configuration or complaints with places, never another exception."""

from __future__ import annotations

import json
import tomllib
from datetime import date, time
from decimal import Decimal
from pathlib import Path
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from agent.config import Config, load_config, site_profiles
from agent.config import parsers as v
from drivers.model import ConfigError
from drivers.toml import Complaint
from drivers.toml import parsers as p

HERE = Path(__file__).parent
GOOD = (HERE / "good.toml").read_text()
PROFILES = site_profiles(HERE / "profiles")


def judge(folder: Path, blob: bytes) -> None:
    (folder / "agent.toml").write_bytes(blob)
    try:
        config = load_config(folder / "agent.toml", environ={}, profiles=PROFILES)
    except ConfigError as error:
        assert error.complaints
        for one in error.complaints:
            assert isinstance(one, Complaint) and one.what
            assert str(one).isprintable() and len(str(one)) < 900
            assert one.line is None or 1 <= one.line <= blob.count(b"\n") + 1
    else:
        assert isinstance(config, Config)
        assert len(config.hash()) == 43


@given(st.data())
def test_any_bytes_changed(tmp_path: Path, data: st.DataObject) -> None:
    blob = bytearray(GOOD.encode())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(blob) - 1))
        cut = data.draw(st.integers(0, 12))
        blob[at : at + cut] = data.draw(st.one_of(st.binary(max_size=6), st.sampled_from(SNIPPETS)))
    judge(tmp_path, bytes(blob))


SNIPPETS = [b'"', b"'", b"[", b"]]", b"{", b"}", b"=", b"\n", b"0x", b"nan", b"-inf", b"1e999", b'""', b"[[device]]\n"]
SNIPPETS += [
    b"true",
    b"2026-11-25",
    b"07:00:00",
    b"'''",
    b'"""',
    b"\\",
    b"\xef\xbb\xbf",
    b"\r",
    b"#",
    b"a.b.c=1\n",
    b",",
]

values = st.recursive(
    st.one_of(
        st.booleans(),
        st.integers(-(2**70), 2**70),
        st.decimals(),
        st.text(max_size=12),
        st.dates(),
        st.times(),
        st.datetimes(),
        st.sampled_from(
            ["", "ac", "ac.*", "1 s", "0 s", "99999999999 d", "8 GiB", "0 B", "9600 8N1", "tcp://h:1", "x.y"]
        ),
        st.sampled_from(
            ["serial:/dev/x", "serial:", "tcp://[::1]:5", "tcp://[", "mqtt://a:b@c", "UTC", "/", "..", "\0"]
        ),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=6), inner, max_size=3)),
    max_leaves=5,
)


def spots(tree: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    steps = list(tree.items()) if isinstance(tree, dict) else list(enumerate(tree)) if isinstance(tree, list) else []
    return [path, *(spot for key, item in steps for spot in spots(item, (*path, key)))]


SPOTS = spots(tomllib.loads(GOOD))[1:]


def toml(value: Any) -> str:
    """Any value as TOML on one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{toml(key)} = {toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(toml(item) for item in value) + "]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, Decimal) and not value.is_finite():
        return "inf" if value.is_infinite() else "nan"
    if isinstance(value, (date, time)):
        return value.isoformat()
    return str(value).lower()


@given(st.sampled_from(SPOTS), values, st.booleans())
def test_any_value_in_any_place(tmp_path: Path, spot: Any, value: Any, drop: bool) -> None:
    """Well-formed TOML all of it: what comes after the parser is tried here."""
    tree = tomllib.loads(GOOD, parse_float=Decimal)
    at: Any = tree
    for step in spot[:-1]:
        at = at[step]
    if drop:
        del at[spot[-1]]
    else:
        at[spot[-1]] = value
    text = "".join(f"{key} = {toml(item)}\n" for key, item in tree.items())
    tomllib.loads(text)
    judge(tmp_path, text.encode())


@given(st.integers(0, 10**10))
@example(1_234_567)
@example(90_061_001)
def test_a_duration_reads_back(ms: int) -> None:
    """From a million milliseconds on, the last digits were lost."""
    assert p.duration_ms(0, 10**10)(p.show_ms(ms)) == ms


@given(st.text(max_size=20))
def test_durations_and_sizes_refuse_or_give_numbers(text: str) -> None:
    for parse in (p.duration_ms(0, 10**12), v.size_bytes(0, 2**50), v.serial, v.line_url, v.uplink_url, v.timezone):
        try:
            assert parse(text) is not None
        except p.InvalidValue as wrong:
            assert wrong.what
