"""Samples of profiles, which are recorded registers with the values that the profile must decode from them.

A sample is in the profile, or in a file beside it. A sample file is a dump with ``expect`` and ``missing``. The command
`simulate --dump` serves it, `decode profile` decodes it, and `profiles check` replays it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

from drivers.model import DeviceSpec, LineError, Point, ProfileError, Quality, Reading, Reason, UsageError
from drivers.profile import Profile, Sample
from drivers.registry import protocol_of, protocols

SPACES: Mapping[str, int] = {"coils": 1, "discrete": 2, "holding": 3, "input": 4}


def replay(profile: Profile, more: tuple[Sample, ...] = ()) -> list[str]:
    """Decode the samples of a profile and ``more`` samples. Returns a text for each value that is not as expected."""
    wrong: list[str] = []
    # if the driver of the protocol is not installed, no sample can be decoded
    for sample in (*profile.samples, *more) if profile.protocol in protocols() else ():
        points = profile.resolve(sample.params, sample.firmware, sample.identity).points
        try:
            found = sampled(profile, sample, points)
        except (LineError, ValueError) as error:
            wrong.append(f"sample {sample.name!r}: {error}")
            continue
        for name, value in sample.expect.items():
            if name not in found:
                wrong.append(f"sample {sample.name!r}: the registers of {name} are missing")
            elif found[name].value != value:
                wrong.append(f"sample {sample.name!r}: {name} is {found[name].value}, expected {value}")
            elif value is not None and found[name].quality != Quality.GOOD:
                wrong.append(f"sample {sample.name!r}: {name} is {value}, but its quality is {found[name].quality}")
    return wrong


def sampled(profile: Profile, sample: Sample, points: tuple[Point, ...]) -> dict[str, Reading]:
    """Decode the registers or frames of a sample. Returns name -> reading. Raises LineError or ValueError."""
    from drivers.samples import read_sample

    return read_sample(profile, points, sample.words, sample.frames)


def make_sample(
    profile: Profile,
    spec: DeviceSpec,
    params: Mapping[str, int | str],
    name: str,
    dump: Mapping[str, Mapping[str, int]],
    identity: Mapping[str, str],
) -> dict[str, Any]:
    """Return the content of a sample file: the registers of ``dump``, and the values that this profile decodes now.

    Transformer ratios and reversed CTs are not applied, because they belong to the site, not to the device family.
    """
    words = {SPACES[space]: {int(at): word for at, word in found.items()} for space, found in dump.items()}
    firmware = identity.get("device.firmware")
    known = {key: text for key, text in identity.items() if key != "device.firmware"}
    sample = Sample(name, words, {}, params, firmware, known)
    found = sampled(profile, sample, profile.resolve(params, firmware, known).points)
    clocks = {point.name for point in spec.points if point.clock or point.name.endswith("time")}
    readings = [one for one in found.values() if one.name not in clocks]
    facts: dict[str, Any] = {"protocol": protocol_of(profile.protocol).wire_name, "address": int(spec.address), **dump}
    facts |= {"name": name, "profile": profile.id, "params": dict(params), "firmware": firmware, "identity": known}
    good = [one for one in readings if one.value is not None and one.quality == Quality.GOOD]
    facts["expect"] = {one.name: _json(one.value) for one in good}
    facts["missing"] = [one.name for one in readings if one.value is None and one.quality == Reason.SENTINEL]
    return facts


def _json(value: Decimal | int | str | None) -> Any:
    """Return a value for JSON. A number becomes a text, which keeps all digits. A text becomes ``{"text": ...}``."""
    return {"text": value} if isinstance(value, str) else str(value)


def write_sample(path: Path, facts: Mapping[str, Any]) -> None:
    """Write a sample file. Raises UsageError if it exists or cannot be written."""
    try:
        with path.open("x", encoding="utf-8") as stream:
            stream.write(json.dumps(facts, indent=1, ensure_ascii=False) + "\n")
    except FileExistsError:
        hint = "A sample is never overwritten: give the name of a new file, such as NAME.evening.json"
        raise UsageError("already exists", where=str(path), hint=hint) from None
    except OSError as error:
        raise UsageError(
            f"cannot be written: {error.strerror}", where=str(path), hint="Give the name of another file"
        ) from error


def samples_beside(path: Path) -> list[tuple[Path, Sample]]:
    """Return (path, content) of the sample files beside a profile: FAMILY.json and FAMILY.*.json.

    Raises ProfileError.
    """
    files = [*path.parent.glob(f"{path.stem}.json"), *path.parent.glob(f"{path.stem}.*.json")]
    return [(file, _sample(file)) for file in sorted(files)]


def _sample(file: Path) -> Sample:
    try:
        found = json.loads(file.read_text("utf-8"), parse_float=Decimal)
        words = {
            SPACES[space]: {int(at, 0): _word(word) for at, word in found[space].items()}
            for space in SPACES
            if space in found
        }
        expect: dict[str, Decimal | int | str | None] = {
            name: value["text"] if isinstance(value, dict) else Decimal(value)
            for name, value in found.get("expect", {}).items()
        }
        expect.update(dict.fromkeys(found.get("missing", [])))
        params, identity = dict(found.get("params") or {}), dict(found.get("identity") or {})
        return Sample(file.name, words, expect, params, found.get("firmware"), identity)
    except OSError as error:
        raise ProfileError(f"cannot be read: {error.strerror}", where=str(file)) from error
    except (ValueError, ArithmeticError, TypeError, KeyError, AttributeError) as error:
        hint = "`meterhouse read --sample FILE` writes a sample"
        raise ProfileError(f"is not a sample of a device's registers: {error}", where=str(file), hint=hint) from error


def _word(word: Any) -> int:
    if not isinstance(word, int) or not 0 <= word <= 0xFFFF:
        raise ValueError(f"{word!r} is not a register's value")
    return word
