"""docs/vectors are what the maker makes, and everybody comes to the same verdict: ours, joserfc, Node, the schema."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard

from agent.verify import Verifier
from agent.verify.files import read_paths
from tests.kits.signed import Key
from tests.verify.make_vectors import VECTORS, all_files

DOCS = VECTORS.parent
PIN = Key(1).kid
CASES = json.loads((VECTORS / "cases.json").read_bytes())


def opened(raw: bytes) -> bytes:
    return zstandard.ZstdDecompressor().decompressobj().decompress(raw) if raw.startswith(b"\x28\xb5\x2f\xfd") else raw


def raw_of(item: dict[str, Any]) -> bytes:
    return item["text"].encode() if "text" in item else base64.b64decode(item["base64"])


def test_the_files_are_what_the_maker_writes_today() -> None:
    """Compressed objects are compared by what is in them: zstd may change its mind."""
    for name, raw in all_files().items():
        kept = (VECTORS / name).read_bytes()
        if name != "cases.json":
            assert kept == raw, f"{name} is stale: run python -m tests.verify.make_vectors"
            continue
        made = json.loads(raw)
        assert len(made) == len(CASES)
        for fresh, old in zip(made, CASES, strict=True):
            pairs = [
                (opened(raw_of(a)), opened(raw_of(b))) for a, b in zip(fresh["objects"], old["objects"], strict=True)
            ]
            assert all(a == b for a, b in pairs), f"{old['name']} is stale: run python -m tests.verify.make_vectors"
            assert {**fresh, "objects": 0} == {**old, "objects": 0}


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case["name"]))
def test_our_verdict(case: dict[str, Any]) -> None:
    verifier = Verifier(case["trust"])
    for item in case["objects"]:
        verifier.feed(raw_of(item), item["topic"])
    report, expect = verifier.finish(), case["expect"]
    assert (report.verdict.value, report.failures, report.packs) == (
        expect["verdict"],
        expect["failures"],
        expect["packs"],
    )
    told = [*report.reasons, *(fault.reason for fault in report.faults)]
    assert any(expect.get("reason_contains", "") in text for text in [*told, ""])


def test_the_export_holds() -> None:
    verifier = Verifier([PIN])
    read_paths(verifier, [VECTORS / "export"])
    report = verifier.finish()
    assert report.ok and (report.packs, report.readings) == (10, 23) and report.checkpoints == 1, report.as_dict()


def sample() -> str:
    """The program of "By hand, without our code"."""
    page = (DOCS / "verify.md").read_text(encoding="utf-8")
    (found,) = [block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "from joserfc" in block]
    return str(found)


def run(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(args, capture_output=True, text=True, timeout=300, check=False)


def test_the_sample_of_the_page_runs_as_it_stands(tmp_path: Path) -> None:
    """joserfc and rfc8785 as a second implementation."""
    script = tmp_path / "check.py"
    script.write_text(sample(), encoding="utf-8")
    good = run(sys.executable, str(script), str(VECTORS / "export"), PIN)
    assert good.returncode == 0 and good.stdout == "10 packs, 23 readings hold\n", good.stderr
    shutil.copytree(VECTORS / "export", tmp_path / "bad")
    lines = (tmp_path / "bad" / "inv1.jsonl").read_bytes()
    (tmp_path / "bad" / "inv1.jsonl").write_bytes(lines.replace(b'"v":2', b'"v":3', 1))
    assert "BadSignatureError" in run(sys.executable, str(script), str(tmp_path / "bad"), PIN).stderr


@pytest.fixture(params=["nothing but Node", "jose and canonicalize"])
def node(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """check.mjs: as it stands, and with the libraries that `make test` puts into its environment."""
    if not shutil.which("node"):
        pytest.skip("no Node here: apt-get install nodejs")
    if request.param == "nothing but Node":
        return lambda *args: run("node", str(VECTORS / "check.mjs"), *map(str, args))
    modules = Path(sys.prefix) / "node" / "node_modules"
    if not all((modules / name).is_dir() for name in ("jose", "canonicalize")):
        pytest.skip(f"jose and canonicalize are not in {modules}: make test puts them there where npm can")
    here = tmp_path / "node"
    here.mkdir()
    for script in VECTORS.glob("*.mjs"):
        shutil.copy(script, here)
    (here / "node_modules").symlink_to(modules)
    return lambda *args: run("node", str(here / "check.mjs"), *map(str, args), "--libraries")


Node = Callable[..., subprocess.CompletedProcess[str]]


@pytest.mark.process
def test_node_comes_to_the_same_verdict(node: Node, tmp_path: Path) -> None:
    """A second implementation in a second language."""
    good = node(VECTORS / "export", PIN)
    assert good.stdout == "verified: 10 packs of 2 streams\n", good.stderr
    shutil.copytree(VECTORS / "export", tmp_path / "bad")
    lines = (tmp_path / "bad" / "inv1.jsonl").read_bytes()
    (tmp_path / "bad" / "inv1.jsonl").write_bytes(lines.replace(b'"v":2', b'"v":3', 1))
    bad = node(tmp_path / "bad", PIN)
    assert bad.returncode == 6 and bad.stdout.startswith("park7/gw01/inv1 2: the signature does not fit\n"), bad.stdout
    assert node(VECTORS / "export", Key(9).kid).returncode == 6
    assert node(VECTORS / "export").stdout == "consistent, origin unproven: 10 packs of 2 streams\n"


@pytest.mark.process
def test_node_comes_to_the_same_verdict_on_every_case(node: Node) -> None:
    """The negative ones too. Where Node has no zstd, the compressed ones are left out."""
    done = node(VECTORS / "cases.json")
    right, wrong, skipped = (int(word) for word in re.findall(r"[0-9]+", done.stdout.splitlines()[-1]))
    assert done.returncode == wrong == 0 and right + skipped == len(CASES), done.stdout + done.stderr
    assert skipped <= sum(any("base64" in item for item in case["objects"]) for case in CASES)


SCHEMA = json.loads((DOCS / "pack.schema.json").read_bytes())


def test_the_schema_describes_the_vectors() -> None:
    import jsonschema

    jsonschema.Draft202012Validator.check_schema(SCHEMA)

    def faults(kind: str, value: Any) -> list[str]:
        schema = {"$defs": SCHEMA["$defs"], "$ref": f"#/$defs/{kind}"}
        return [error.message for error in jsonschema.Draft202012Validator(schema).iter_errors(value)]

    count = 0
    for case in CASES:
        if case["expect"]["failures"]:
            continue
        for item in case["objects"]:
            value = json.loads(opened(raw_of(item)))
            kind = "keys" if "records" in value else "checkpoint" if "heads" in value else "pack"
            assert not faults(kind, value), (case["name"], faults(kind, value))
            count += 1
    assert count > 80
    by_name = {case["name"]: case for case in CASES}
    for name in ("no_signature", "wrong_format", "must_understand"):
        assert faults("pack", json.loads(by_name[name]["objects"][-1]["text"])), name


def test_asyncapi_names_every_topic_and_only_things_that_exist() -> None:
    import yaml

    spec = yaml.safe_load((DOCS / "asyncapi.yaml").read_text(encoding="utf-8"))
    assert spec["asyncapi"].startswith("3.")
    leaves = {
        channel["address"].removeprefix("meterhouse/v1/{site}/{gateway}/") for channel in spec["channels"].values()
    }
    assert leaves == {
        "status", "keys", "{stream}/birth", "{stream}/readings", "{stream}/backfill", "checkpoint/{page}", "ack",
        "replay/request", "replay/reply", "meterhouse/latest/v1/{site}/{gateway}/{stream}",
    }  # fmt: skip

    def refs(node: Any) -> list[str]:
        if isinstance(node, dict):
            return [v for k, v in node.items() if k == "$ref"] + [r for v in node.values() for r in refs(v)]
        return [r for v in node for r in refs(v)] if isinstance(node, list) else []

    for ref in refs(spec):
        file, _, pointer = ref.partition("#/")
        node = SCHEMA if file else spec
        for step in pointer.split("/"):
            node = node[step]
    for ref in refs(SCHEMA):
        assert ref.removeprefix("#/$defs/") in SCHEMA["$defs"]
    for channel in spec["channels"].values():
        assert set(re.findall(r"{(\w+)}", channel["address"])) == set(channel["parameters"])
