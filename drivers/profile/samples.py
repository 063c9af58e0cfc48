"""Reads [[sample]] tables. A sample has registers and the values they must give; tests decode the samples of every
profile.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from drivers.profile.types import Sample
from drivers.toml import TomlTable, show, suggestion

SPACES: Mapping[str, int] = {"coils": 1, "inputs": 2, "holding": 3, "input": 4}
SAMPLE_KEYS = ("name", *SPACES, "frames", "expect", "missing", "params", "firmware", "identity")


def read_samples(table: TomlTable, names: set[str], protocol: str) -> tuple[Sample, ...]:
    """Read all samples. A name in ``expect`` that is not the name of a point is a complaint."""
    result: list[Sample] = []
    for sample in table.tables("sample"):
        given = sample.raw
        sample.unknown(SAMPLE_KEYS)
        words = {function: _words(sample, key) for key, function in SPACES.items() if key in given}
        if not words and "frames" not in given:
            sample.add("name", "the sample has no registers", 'Add the key "holding", "input", "coils" or "inputs"')
        expect: dict[str, Decimal | int | str | None] = {}
        for name, value in sample.mapping("expect").items():
            good = isinstance(value, (int, str)) or (isinstance(value, Decimal) and value.is_finite())
            if not good or isinstance(value, bool):
                sample.add("expect", f"the expected value of {name} is neither a number nor a string")
                continue
            expect[name] = value
        expect.update(dict.fromkeys(sample.texts("missing")))
        identity = sample.mapping("identity")
        if not all(isinstance(v, str) for v in identity.values()):
            sample.add("identity", "identity: only strings are allowed")
            identity = {}
        frames = sample.mapping("frames")
        if not all(isinstance(v, str) for v in frames.values()):
            sample.add("frames", "frames: only strings are allowed")
            frames = {}
        if not expect:
            sample.add("expect", 'the sample has neither the key "expect" nor the key "missing"')
        for name in expect:
            if name not in names:
                sample.add("expect", f"expect: unknown point {show(name)}", suggestion(name, names))
        result.append(
            Sample(
                name=sample.text("name", required=True),
                words=words,
                expect=expect,
                params=sample.mapping("params"),
                firmware=sample.text("firmware") or None,
                identity=identity,
                frames=frames,
            )
        )
    return tuple(result)


def _words(sample: TomlTable, key: str) -> dict[int, int]:
    """Address -> word. Each value in the table is one word, a list of words from the address on, or hex text of such a
    list.
    """
    highest = 1 if key in {"coils", "inputs"} else 0xFFFF
    result: dict[int, int] = {}
    for address, value in sample.keyed(key).items():
        for offset, word in enumerate(_list_of_words(value)):
            if not isinstance(word, int) or isinstance(word, bool) or not 0 <= word <= highest:
                sample.add(
                    key,
                    f"{key}: the value at address {address + offset} is {show(word)}, "
                    f"but only 0 to {highest} are allowed",
                )
                return {}
            result[address + offset] = word
    return result


def _list_of_words(value: Any) -> list[Any]:
    if isinstance(value, list):
        return value
    if not isinstance(value, str):
        return [value]
    try:
        raw = bytes.fromhex(value)
    except ValueError:
        return [value]
    return [int.from_bytes(raw[i : i + 2]) for i in range(0, len(raw), 2)] if len(raw) % 2 == 0 else [value]
