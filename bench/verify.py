"""Speed of the verifier on one core in packs per second, compared with the signature check alone.

python -m bench.verify [--packs N] [--import] [--json]

``--import`` measures something else: the CPU time of importing the library, in separate processes.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

from agent.cli.bench import least_time
from agent.verify import CheckedPack, KeyRing, PointTable, Verifier, check_keys
from agent.verify import check as judge
from agent.verify.jws import public_key
from agent.verify.signed import cut_signature
from tests.kits.signed import POINTS, Key, Stream, keys  # this module makes signed packs without the code of the agent

SHAPES = {  # name -> (number of points, time that a pack spans in seconds); a pack has points * seconds / 5 readings
    "10 readings": (5, 10),
    "100 readings": (50, 10),
    "1000 readings": (500, 10),
}


def best(function: Callable[[], object], rounds: int = 3) -> float:
    """CPU seconds of the fastest round."""
    return least_time(function, repeat=rounds, clock=time.process_time)


def measure(points: int, seconds: int, count: int) -> dict[str, float]:
    """Measure one stream of ``count`` packs: the whole verification, ``check`` of each pack, and the signature checks
    alone.
    """
    key = Key()
    shape = [(f"ac.circuit.{n}.power", *POINTS[0][1:]) for n in range(points)]
    stream = Stream(key=key, points=shape)
    packs, topic = stream.run(count, seconds), stream.topic()
    announced = keys(key)
    public = public_key(key.alg, key.jwk)
    bare = []
    for raw in packs:
        head, _, signature = json.loads(raw)["sig"].partition("..")
        payload = cut_signature(raw, f"{head}..{signature}")
        assert payload is not None
        bare.append((base64.urlsafe_b64decode(signature + "=="), head.encode() + b"." + payload))

    def verify() -> None:
        verifier = Verifier([key.kid])
        verifier.feed(announced)
        for raw in packs:
            verifier.feed(raw, topic)
        assert verifier.finish().ok

    def check() -> None:
        for signature, signed in bare:
            public.check(signature, signed)

    ring = KeyRing("park7/gw01", [key.kid])
    check_keys(announced, None, ring)

    def stateless() -> None:
        tables: dict[str, PointTable] = {}
        for raw in packs:
            pack = judge(raw, topic, ring, tables.get)
            assert isinstance(pack, CheckedPack) and pack.ok
            if pack.table:
                tables[pack.link.hash] = pack.table

    whole, only, alone = best(verify), best(check), best(stateless)
    return {
        "packs": count,
        "bytes": len(packs[-1]),
        "readings": points * seconds // 5,
        "packs_per_second": round(count / whole),
        "readings_per_second": round(points * seconds / 5 * (count - 1) / whole),
        "us_per_pack": round(whole / count * 1e6, 1),
        "us_check": round(alone / count * 1e6, 1),
        "us_signature_alone": round(only / count * 1e6, 1),
        "ratio": round(whole / only, 2),
    }


IMPORTS = {
    "agent.verify": "import agent.verify",
    "Verifier and check": "from agent.verify import KeyRing, PointTable, Verifier, check, check_checkpoint, check_keys",
    "cryptography alone": "from cryptography.hazmat.primitives.asymmetric import ec, ed25519",
}


def import_ms(program: str, rounds: int = 9) -> float:
    """CPU time of an import in ms. The fastest of ``rounds`` processes counts."""
    timed = f"import time; began = time.process_time(); {program}; print((time.process_time() - began) * 1000)"
    compiled = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    command = [sys.executable, "-c", timed]
    runs = (subprocess.run(command, env=compiled, capture_output=True, check=True) for _ in range(rounds))
    return round(min(float(run.stdout) for run in runs), 1)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, then print JSON, or one line for each kind of packs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--packs", type=int, default=1000)
    parser.add_argument("--import", action="store_true", dest="is_import")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(argv)
    if args.is_import:
        times = {name: import_ms(program) for name, program in IMPORTS.items()}
        print(json.dumps(times) if args.json else "\n".join(f"{name}: {ms} ms" for name, ms in times.items()))
        return
    results: dict[str, dict[str, float]] = {}
    for name, (points, seconds) in SHAPES.items():
        results[name] = r = measure(points, seconds, args.packs)
        if not args.json:
            print(
                f"{name:>14} of {r['bytes']:>6} bytes: {r['packs_per_second']:>6} packs/s, "
                f"{r['readings_per_second']:>8} readings/s; {r['us_per_pack']} us a pack, "
                f"{r['ratio']} times the signature check alone ({r['us_signature_alone']} us); "
                f"check {r['us_check']} us"
            )
    if args.json:
        print(json.dumps(results))


if __name__ == "__main__":
    main()
