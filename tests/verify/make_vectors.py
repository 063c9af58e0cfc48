"""Writes docs/vectors anew: ``python -m tests.verify.make_vectors``. The same keys and packs every time."""

from __future__ import annotations

import base64
import json
import shutil
from pathlib import Path
from typing import Any

from tests.kits.signed import BOOTS, Key, Stream, checkpoint, keys
from tests.verify import figure_vectors
from tests.verify.corpus import Case, all_cases

VECTORS = Path(__file__).resolve().parents[2] / "docs" / "vectors"


def good_files() -> dict[str, bytes]:
    """A small export as `meterhouse verify` and everybody else can check it: two streams, two keys, a restart, gaps."""
    old, new = Key(1), Key(2, "ES256")
    inverter, meter = Stream("inv1", old), Stream("gate-meter", old)
    lines = {
        "inv1": [*inverter.run(3), inverter.gap(10, "timeout")],
        "gate-meter": meter.run(3),
    }
    inverter.restart(BOOTS[1])
    inverter.key = new
    lines["inv1"] += [inverter.make_birth(), inverter.gap(30, "stopped"), inverter.pack()]
    heads = [{"boot": s.boot, "hash": s.prev, "seq": s.seq, "stream": s.stream, "to": s.at} for s in (meter, inverter)]
    files = {f"{name}.jsonl": b"\n".join(packs) + b"\n" for name, packs in lines.items()}
    files["keys.json"] = keys(old, new, counter=2) + b"\n"
    files["checkpoint.json"] = checkpoint(heads, new) + b"\n"
    return files


def as_vector(case: Case) -> dict[str, Any]:
    """A case as JSON. ``text`` is what was published, ``base64`` where it is no UTF-8 text."""
    objects = []
    for topic, raw in case.objects:
        try:
            objects.append({"text": raw.decode(), "topic": topic})
        except UnicodeDecodeError:
            objects.append({"base64": base64.b64encode(raw).decode(), "topic": topic})
    expect: dict[str, Any] = {"failures": case.failures, "packs": case.packs, "verdict": case.verdict}
    if case.readings is not None:
        expect["readings"] = case.readings
    if case.reason:
        expect["reason_contains"] = case.reason
    return {"about": case.about, "expect": expect, "name": case.name, "objects": objects, "trust": list(case.trust)}


def all_files() -> dict[str, bytes]:
    """Path below docs/vectors and content."""
    files = {f"export/{name}": raw for name, raw in good_files().items()}
    files |= {f"figures/{name}": raw for name, raw in figure_vectors.all_files().items()}
    rows = ",\n".join(json.dumps(as_vector(case), ensure_ascii=True, sort_keys=True) for case in all_cases())
    files["cases.json"] = f"[\n{rows}\n]\n".encode()
    return files


def write() -> None:
    """All files anew; what is no vector any more goes."""
    shutil.rmtree(VECTORS / "figures", ignore_errors=True)
    for name, raw in all_files().items():
        path = VECTORS / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(raw)
        print(f"{len(raw):8} {path}")


if __name__ == "__main__":
    write()
