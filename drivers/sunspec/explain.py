"""What `decode sunspec` shows."""

from __future__ import annotations

from typing import Any

from drivers.explain import MAX_TEXT, BrokenInput, Explainer, Json, by_address, number, reading_json, register_words
from drivers.model import FrameError, clean_text
from drivers.sunspec.models import END_MODEL
from drivers.sunspec.names import readings_of
from drivers.sunspec.walk import decode_image


def _image(content: Any) -> tuple[int, list[int | None]]:
    """Return (base address, registers) of an image. For a dump, these are its holding registers, from the lowest
    address on.

    A register that was not read is None. The points in such registers have no value.
    """
    if not isinstance(content, dict):
        raise BrokenInput('expected {"base_address": 40000, "registers": [...]}')
    if content.get("registers") is None and isinstance(content.get("holding"), dict):
        words = register_words(content["holding"], "holding")
    elif isinstance(content.get("registers"), list):
        words = register_words(by_address(content), "registers")
    else:
        raise BrokenInput("registers must be a list of numbers")
    first, last = min(words, default=0), max(words, default=-1)
    return first, [words.get(at) for at in range(first, last + 1)]


def explain(content: Any) -> Json:
    """Explain the models in the image of one device."""
    base, registers = _image(content)
    try:
        device = decode_image(base, registers)
    except FrameError as error:
        raise BrokenInput(str(error)) from error
    models: list[Json] = []
    for model in device.models:
        points = {
            name: clean_text(v.value, MAX_TEXT) if isinstance(v.value, str) else number(v.value)
            for name, v in model.points.items()
        }
        shown: Json = {"id": model.id, "address": model.address, "length": model.length, "points": points}
        if not model.known and model.id != END_MODEL:
            shown["unknown"] = True
        if model.truncated:
            shown["truncated"] = True
        models.append(shown)
    frame: Json = {"protocol": "sunspec", "base_address": device.base, "marker": True}
    common = device.first(1)
    if common is not None:
        for key, name in (("manufacturer", "Mn"), ("model", "Md"), ("version", "Vr"), ("serial", "SN")):
            if common.points.get(name) is not None and common.points[name].value is not None:
                frame[key] = clean_text(str(common.points[name].value))
    result: Json = {
        "frame": frame,
        "models": models,
        "readings": [reading_json(r) for r in readings_of(device)],
    }
    if device.warnings:
        result["warnings"] = device.warnings
    return result


EXPLAINERS = (
    Explainer(
        name="sunspec",
        title="SunSpec",
        help="""Explain a SunSpec register image: its models and scaled values, as the SunSpec Alliance defines them.

    FILE is {"base_address": 40000, "registers": [...]}. If FILE is -, stdin is read.

    \b
    Example:
      meterhouse decode sunspec inverter.json --json

    \b
    Exit codes: 0 decoded, 2 wrong usage, 4 the file contains no SunSpec device.
    """,
        explain=explain,
        takes_json=True,
    ),
)
