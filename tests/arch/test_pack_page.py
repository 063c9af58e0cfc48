"""docs/pack-format.md and docs/pack.schema.json list what the code writes: found in the code, not by hand."""

from __future__ import annotations

import ast
import copy
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from agent.indicators.definitions import PlanText, shipped_sets
from agent.indicators.plan import make_plan
from drivers.model import Reason

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "pack-format.md").read_text(encoding="utf-8")
SCHEMA: dict[str, Any] = json.loads((ROOT / "docs" / "pack.schema.json").read_bytes())
DEFS: dict[str, Any] = SCHEMA["$defs"]
VECTORS = ROOT / "docs" / "vectors"


def section(*heads: str) -> str:
    """The text of these headings, each up to the next of its level or above."""
    out = []
    for head in heads:
        found = re.search(rf"^(#+) {re.escape(head)}.*?$(.*?)(?=^#{{1,6}} |\Z)", PAGE, re.MULTILINE | re.DOTALL)
        assert found, head
        out.append(found[2])
    return "\n".join(out)


def table(text: str, head: str) -> dict[str, str]:
    """First cell (each of the words in code) and the other cells of the table whose first column is called so."""
    found = re.search(rf"^\| {re.escape(head)} \|.*\n\|[-:| ]+\n((?:\|.*\n)+)", text + "\n", re.MULTILINE)
    assert found, head
    rows = [line.strip("| ").split(" | ", 1) for line in found[1].splitlines()]
    return {name: row[-1] for row in rows for name in re.findall(r"`([a-z_.0-9]+)`", row[0])}


def words(text: str) -> set[str]:
    return set(re.findall(r"`([a-z_0-9]+)`", text))


# --- gap reasons


def test_every_gap_reason_is_explained() -> None:
    coded = {reason.name.lower() for reason in Reason}
    assert set(table(section("4. Ticks and gaps"), "reason")) == coded
    assert set(DEFS["gap"]["properties"]["reason"]["enum"]) == coded


# --- events


def keys_of(node: ast.expr) -> set[str]:
    """Names of members in a dictionary literal, also of one that is joined to another."""
    found = set()
    for inner in ast.walk(node):
        if isinstance(inner, ast.Dict):
            found |= {key.value for key in inner.keys if isinstance(key, ast.Constant) and isinstance(key.value, str)}
    return found


def functions() -> Iterator[ast.AST]:
    """Of all files that speak of events."""
    for folder in ("agent", "drivers"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            text = path.read_text(encoding="utf-8")
            for node in ast.walk(ast.parse(text)) if '"event"' in text else ():
                if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                    yield node


@cache
def events() -> dict[str, set[str]]:
    """Events that the code can write, with all members that it can give them."""
    found: dict[str, set[str]] = {}
    for function in functions():
        for node in ast.walk(function):
            if not isinstance(node, ast.Dict):
                continue
            said = {k.value: v for k, v in zip(node.keys, node.values, strict=True) if isinstance(k, ast.Constant)}
            if "event" not in said:
                continue
            members = {key for key in said if isinstance(key, str)} - {"event", "t"}
            members |= later_members(function, "event")
            kind = said["event"]
            for name in [kind.value] if isinstance(kind, ast.Constant) else changes():
                found[str(name)] = found.get(str(name), set()) | members
    return found


def later_members(function: ast.AST, name: str) -> set[str]:
    """``event["x"] = ...`` and ``event |= {"x": ...}`` in a function."""
    found: set[str] = set()
    for node in ast.walk(function):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Subscript):
            target = node.targets[0]
            if (
                isinstance(target.value, ast.Name)
                and target.value.id == name
                and isinstance(target.slice, ast.Constant)
            ):
                found.add(str(target.slice.value))
        if isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name) and node.target.id == name:
            found |= keys_of(node.value)
    return found


def changes() -> set[str]:
    """Names of the events that begin a counter epoch: what ``agent.pack.facts.changes`` can find."""
    tree = ast.parse((ROOT / "agent" / "pack" / "facts.py").read_text(encoding="utf-8"))
    function = next(n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name == "changes")
    return {
        node.args[0].elts[0].value
        for node in ast.walk(function)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "append"
        and isinstance(node.args[0], ast.Tuple)
        and isinstance(node.args[0].elts[0], ast.Constant)
    }


def test_every_event_is_listed_with_its_members() -> None:
    listed, coded = table(section("6. Events"), "event"), events()
    assert set(listed) == set(coded), "the table and the code"
    assert len(coded) >= 14
    for name, members in coded.items():
        assert members <= words(listed[name].split(" | ")[0]), name


def test_the_schema_knows_every_event_and_member() -> None:
    branches = {}
    for branch in DEFS["event"]["allOf"]:
        kind = branch["if"]["properties"]["event"]
        for name in kind.get("enum", [kind.get("const")]):
            branches[name] = branch["then"].get("properties", {})
    for name, members in events().items():
        assert members <= set(branches.get(name, {})), name
    assert set(branches) <= set(events())


# --- results and births


WRITERS: dict[str, tuple[tuple[str, str], ...]] = {  # headings -> functions that write what they describe
    "A figure": (
        ("agent/indicators/figure.py", "Figure.as_dict"),
        ("agent/indicators/figure.py", "_factor"),
        ("agent/indicators/figure.py", "_input"),
        ("agent/indicators/figure.py", "_value"),
    ),
    "Results": (("agent/indicators/figure.py", "Period.as_dict"),),
    "The other kinds": (
        ("agent/indicators/declared.py", "Declaration.as_dict"),
        ("agent/indicators/report.py", "trace_result"),
        ("agent/service/results/site.py", "KnownPacks.__call__"),
        ("agent/intervals/balance.py", "EnergyBalance.as_dict"),
        ("agent/intervals/balance.py", "BalanceNode.as_dict"),
        ("agent/intervals/balance.py", "Residual.as_dict"),
        ("agent/intervals/derived.py", "Derived._result"),
        ("agent/indicators/site.py", "SiteResults.made"),
    ),
    "5. Birth": (
        ("agent/service/births.py", "gateway_table"),
        ("agent/service/births.py", "results_table"),
        ("agent/service/births.py", "derived_row"),
        ("agent/service/births.py", "device_front"),
        ("agent/service/births.py", "_fresh"),
        ("agent/service/births.py", "point_row"),
        ("agent/service/births.py", "_source"),
    ),
}


def written(path: str, name: str) -> set[str]:
    """Names of members that a function writes: in literals, by subscript, as pairs of a loop."""
    body: Iterable[ast.AST] = ast.parse((ROOT / path).read_text(encoding="utf-8")).body
    for part in name.split("."):
        node = next(n for n in body if isinstance(n, (ast.FunctionDef, ast.ClassDef)) and n.name == part)
        body = node.body
    found = {key for inner in body for node in ast.walk(inner) if isinstance(node, ast.Dict) for key in keys_of(node)}
    for inner in body:
        for node in ast.walk(inner):
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Subscript):
                place = node.targets[0].slice
                found |= {place.value} if isinstance(place, ast.Constant) and isinstance(place.value, str) else set()
            if isinstance(node, ast.For) and isinstance(node.iter, ast.Tuple):
                pairs = [pair for pair in node.iter.elts if isinstance(pair, ast.Tuple)]
                found |= {pair.elts[0].value for pair in pairs if isinstance(pair.elts[0], ast.Constant)}
    return found


@pytest.mark.parametrize("head", WRITERS)
def test_every_member_that_the_code_writes_is_described(head: str) -> None:
    described = words(section(head, "Results") if head in ("A figure", "The other kinds") else section(head))
    for path, name in WRITERS[head]:
        members = written(path, name)
        assert len(members) > 1 and members <= described, f"{name}: {sorted(members - described)}"


def closed(schema: Any, name: str = "") -> Any:
    """The schema with unknown members refused wherever members are listed, but for branches of a choice."""
    if isinstance(schema, list):
        return [closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: closed(value, key) for key, value in schema.items()}
    if name in ("if", "then") or (name == "" and "type" not in schema):
        return made
    if schema.get("properties") and "additionalProperties" not in schema and "type" in schema:
        made["unevaluatedProperties"] = False
    return made


@pytest.fixture(scope="module")
def strict() -> Any:
    """A validator that refuses members which the schema does not list."""
    import jsonschema

    definitions = {name: closed(copy.deepcopy(value)) for name, value in DEFS.items()}
    for name in ("figure", "declaration", "trace", "balance", "derived", "known"):
        definitions[name].pop("unevaluatedProperties", None)  # branches of a result, which refuses for them
    return jsonschema.Draft202012Validator({"$defs": definitions, "$ref": "#/$defs/pack"})


def test_the_schema_lists_every_member_of_every_pack_of_figures(strict: Any) -> None:
    count = 0
    for file in sorted((VECTORS / "figures").rglob("*.packs.jsonl")):
        for line in file.read_bytes().splitlines():
            assert [f"{e.json_path}: {e.message}" for e in strict.iter_errors(json.loads(line))] == [], file
            count += 1
    assert count > 300
    pack = json.loads((VECTORS / "figures/growth/packs/_indicators.packs.jsonl").read_bytes().splitlines()[1])
    figure = next(n for n, result in enumerate(pack["results"]) if result["kind"] == "figure")
    for spoilt in (
        pack["results"][figure],
        pack["results"][figure]["inputs"][0],
        pack["results"][figure]["period"],
        pack,
    ):
        spoilt["moon"] = "full"
        assert list(strict.iter_errors(pack)), "the check itself"
        del spoilt["moon"]


# --- strict mode


def loose(schema: Any, place: str = "#", typed: bool = False) -> list[str]:
    """What ajv's strict mode complains about: strictRequired, strictTypes, strictTuples."""
    if isinstance(schema, list):
        return [text for n, item in enumerate(schema) for text in loose(item, f"{place}/{n}", typed)]
    if not isinstance(schema, dict):
        return []
    found = []
    kind = schema.get("type")
    if isinstance(kind, list) and len(set(kind) - {"null"}) > 1:
        found.append(f"{place}: union of types")
    objects = {"required", "properties", "additionalProperties", "patternProperties", "propertyNames", "minProperties"}
    is_object = typed or kind == "object" or (isinstance(kind, list) and "object" in kind)
    if objects & schema.keys() and not is_object:
        found.append(f"{place}: keywords of an object without its type")
    found += [
        f"{place}: {n} is required and not defined"
        for n in schema.get("required", ())
        if n not in schema.get("properties", {})
    ]
    if "prefixItems" in schema and (
        schema.get("minItems") != len(schema["prefixItems"]) or schema.get("items") is not False
    ):
        found.append(f"{place}: an open tuple")
    for key in ("oneOf", "anyOf", "allOf", "if", "then", "else", "not"):
        if key in schema:
            found += loose(schema[key], f"{place}/{key}", is_object)
    for key in ("properties", "patternProperties", "$defs"):
        for name, inner in schema.get(key, {}).items():
            found += loose(inner, f"{place}/{key}/{name}")
    for key in ("items", "prefixItems", "additionalProperties", "propertyNames"):
        if isinstance(schema.get(key), (dict, list)):
            found += loose(schema[key], f"{place}/{key}")
    return found


def test_the_schema_is_strict() -> None:
    assert loose(SCHEMA) == []
    assert loose({"type": "object", "required": ["a"]}) and loose({"properties": {"a": True}})


@pytest.mark.process
def test_ajv_compiles_the_schema_in_strict_mode() -> None:
    """ajv's default would only warn; programs that set ``strict: true`` could not use the schema."""
    modules = Path(sys.prefix) / "node" / "node_modules"
    if not shutil.which("node") or not (modules / "ajv").is_dir():
        pytest.skip(f"no Node, or ajv is not in {modules}: make test puts it there where npm can")
    script = """
        const Ajv = require('ajv/dist/2020').default
        const schema = JSON.parse(require('fs').readFileSync(process.argv[1]))
        const ajv = new Ajv({ strict: true, allErrors: true })
        ajv.addSchema(schema, 'all')
        for (const name of Object.keys(schema.$defs)) ajv.compile({ $ref: `all#/$defs/${name}` })
        console.log(Object.keys(schema.$defs).length)
    """
    done = subprocess.run(
        ["node", "-e", script, str(ROOT / "docs" / "pack.schema.json")],
        capture_output=True, text=True, timeout=200, check=False, env={**os.environ, "NODE_PATH": str(modules)},
    )  # fmt: skip
    assert (done.stdout.strip(), done.stderr) == (str(len(DEFS)), "")


def test_asyncapi_says_which_dialect_its_schemas_are() -> None:
    """AsyncAPI 3.0 reads a schema without it as draft-07, which refuses every pack in parts."""
    text = (ROOT / "docs" / "asyncapi.yaml").read_text(encoding="utf-8")
    payloads = re.findall(r"^      payload:\n(.*)\n(.*)\n(.*)$", text, re.MULTILINE)
    assert len(payloads) == text.count("payload:") == 9
    for first, second, third in payloads:
        assert first.strip() == "schemaFormat: application/schema+json;version=draft-2020-12"
        assert second.strip() == "schema:" and third.strip().startswith("$ref: './pack.schema.json#/$defs/")


# --- hashes


def test_the_page_spells_a_formula_as_its_hash_does() -> None:
    import base64
    import hashlib

    found = re.search(
        r"The hashed lines of the figure `plain/self_consumption` are:\n\n((?: {4}.*\n)+)\n"
        r"The hash of these lines is `([\w-]{43})`",
        PAGE,
    )
    assert found
    text = "\n".join(line[4:] for line in found[1].splitlines())
    digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
    plan = make_plan(PlanText(schema=1))
    assert digest == found[2] == next(one.hash for one in plan.indicators if one.name == "plain/self_consumption")


@pytest.mark.process
def test_javascript_makes_the_same_hash_of_every_shipped_formula() -> None:
    if not shutil.which("node"):
        pytest.skip("no Node here: apt-get install nodejs")
    plan = make_plan(PlanText(schema=1, sets=[name for name, one in shipped_sets().items() if one.indicator]))
    script = """
        import { readFileSync } from 'node:fs'
        const { formulaHash, makePlan } = await import(process.argv[1])
        const plan = makePlan({ sets: JSON.parse(process.argv[3]) }, JSON.parse(readFileSync(process.argv[2], 'utf8')))
        const hashes = [...plan.indicators.values()].map((one) => [one.name, formulaHash(plan, one)])
        console.log(JSON.stringify(Object.fromEntries(hashes)))
    """
    done = subprocess.run(
        ["node", "--input-type=module", "-e", script, str(VECTORS / "figures.mjs"),
         str(VECTORS / "figures" / "definitions.json"), json.dumps(sorted(plan.sets))],
        capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {one.name: one.hash for one in plan.indicators} and len(plan.indicators) > 20
