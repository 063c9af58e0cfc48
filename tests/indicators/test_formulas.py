"""Formulas: what they give, and what a wrong or hostile one is told."""

from __future__ import annotations

from decimal import Decimal as D
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.indicators import expression
from agent.indicators.definitions import shipped_sets
from agent.indicators.evaluate import evaluate
from agent.indicators.expression import FormulaError
from agent.indicators.factors import shipped
from agent.indicators.figure import Period
from agent.indicators.plan import load_plan
from agent.indicators.supply import Supply
from agent.indicators.units import parse_unit
from agent.intervals.rows import Flag, RoleSum
from drivers.model import ConfigError

VALUES = {"a": Fraction(3), "b.c": Fraction(-7, 2), "d": Fraction(0)}


@st.composite
def formulas(draw: st.DrawFn, depth: int = 4) -> tuple[str, str]:
    """A formula, and the same in Python over fractions."""
    if depth == 0 or draw(st.booleans()):
        name = draw(st.sampled_from(sorted(VALUES)))
        number = draw(st.decimals(0, 10**6, places=3, allow_nan=False))
        plain = format(number, "f")
        return draw(st.sampled_from([(name, f"V[{name!r}]"), (plain, f"F({plain!r})")]))
    left, right = draw(formulas(depth - 1)), draw(formulas(depth - 1))
    sign = draw(st.sampled_from(["+", "-", "*", "/", "min", "max", "neg"]))
    if sign == "neg":
        return f"-({left[0]})", f"(-({left[1]}))"
    if sign in ("min", "max"):
        return f"{sign}({left[0]}, {right[0]})", f"{sign}({left[1]}, {right[1]})"
    return f"({left[0]}) {sign} ({right[0]})", f"(({left[1]}) {sign} ({right[1]}))"


@given(formulas())
def test_agrees_with_the_language(pair: tuple[str, str]) -> None:
    text, reference = pair
    tree = expression.parse(text)
    scope = {"V": VALUES, "F": Fraction, "min": min, "max": max}
    try:
        expected = eval(reference, {"__builtins__": {}}, scope)
    except ZeroDivisionError:
        with pytest.raises(ZeroDivisionError):
            expression.value(tree, VALUES.__getitem__)
        return
    assert expression.value(tree, VALUES.__getitem__) == expected


@given(st.text(max_size=80))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        expression.parse(text)
    except FormulaError as error:
        assert "at character" in str(error) or "long" in str(error)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "expected a number, a name or ("),
        ("a +", "'the end'"),
        ("a b", "at character 3 ('b')"),
        ("__import__('os')", "at character 1"),
        ("a.__class__", "at character"),
        ("exec(a)", "unknown function 'exec'; known are min, max, positive"),
        ("1 [parsec]", "unknown unit 'parsec'"),
        ("(" * 40 + "a" + ")" * 40, "nested deeper than 32"),
        ("-" * 40 + "a", "nested deeper than 32"),
        ("-a+" * 40 + "(" * 40 + "a" + ")" * 40, "nested deeper than 32"),
        ("a" + "+a" * 300, "more than 200 operations"),
        ("a" * 5000, "at most 4096"),
        ("positive(a, a)", "positive takes one value"),
        ("min(a", "expected )"),
        ("2 ** 3", "at character 4"),
    ],
)
def test_a_wrong_formula_says_where(text: str, complaint: str) -> None:
    with pytest.raises(FormulaError) as caught:
        expression.parse(text)
    assert complaint in str(caught.value)


@pytest.mark.parametrize("sign", ["*", "+", "/"])
def test_terms_that_double_each_other_are_refused(sign: str) -> None:
    """Exact results as long as 2**24 quantities together: check said good, and the agent stood still for minutes."""
    terms = ['name = "t0"\nformula = "grid.import / 1 [kWh] + 3"']
    terms += [f'name = "t{n}"\nformula = "t{n - 1} {sign} t{n - 1}"' for n in range(1, 25)]
    text = "".join(f'[[term]]\n{one}\nunit = "1"\ntitle = {{ en = "t", zh = "t" }}\n' for one in terms)
    with pytest.raises(ConfigError) as raised:
        load_plan(f"schema = 1\n{text}", "plan.toml")
    first = str(raised.value.complaints[0])
    assert "term t9: has 1536 quantities, including those of its terms; at most 1000 are allowed" in first


def _chain(terms: int, operations: int) -> str:
    """A plan whose figure is the last term of a chain. Each term adds something to the one before it."""
    plan, before, more = "schema = 1\n", "grid.import", " + grid.import" * operations
    for n in range(terms):
        title = '{ en = "t", zh = "t" }'
        plan += f'[[term]]\nname = "t{n}"\nformula = "{before}{more}"\nunit = "kWh"\ntitle = {title}\n'
        before = f"t{n}"
    return f'{plan}[[indicator]]\nid = "x"\ntitle = {{}}\nnumerator = "{before}"\nunit = "kWh"\nperiods = ["day"]\n'


@pytest.mark.parametrize(("most", "operations"), [(199, 1), (3, 130)])
def test_terms_on_terms_can_be_computed_or_are_refused(most: int, operations: int) -> None:
    """Check said good of a chain of 300 terms, and the agent could not compute it: its stack was too small."""
    day_ms = 86_400_000
    period = Period("day", 0, day_ms, "1970-01-01", 1970, 365 * day_ms, day_ms)
    plan = load_plan(_chain(most, operations), "plan.toml")
    supply = Supply([RoleSum("grid", "import", 0, day_ms, D(10), "kWh", D(1), D(0), Flag(0), ())])
    (figure,) = evaluate(plan, period, supply, plan.indicators[-1:])
    assert figure.shown == str(10 * (most * operations + 1))
    with pytest.raises(ConfigError) as raised:
        load_plan(_chain(most + 1, operations), "plan.toml")
    assert "levels, including those of its terms; at most 400 are allowed" in str(raised.value.complaints[0])


def test_units_add_up_or_are_refused() -> None:
    assert parse_unit("MWh").factor / parse_unit("GJ").factor == Fraction(36, 10)
    assert parse_unit("GJ/10^4Nm3").factor == Fraction(10**9, 10**4)
    with pytest.raises(ValueError, match="unknown unit 'furlong'"):
        parse_unit("kWh/furlong")
    with pytest.raises(ValueError, match="only one /, with a unit"):
        parse_unit("kWh/t/t")

    def of(name: str) -> expression.Dimension:
        return parse_unit({"power": "kWh", "heat": "GJ", "water": "m3"}[name]).dimension

    assert expression.dimension(expression.parse("power + heat - 0"), of) == parse_unit("J").dimension
    with pytest.raises(FormulaError, match=r"\+ cannot combine energy and volume"):
        expression.dimension(expression.parse("power + water"), of)
    with pytest.raises(FormulaError, match="cannot combine energy and a plain number"):
        expression.dimension(expression.parse("max(power, 1)"), of)


def test_every_shipped_set_is_sound_and_speaks_both_languages() -> None:
    plan = load_plan(f"schema = 1\nsets = {sorted(shipped_sets())}", "all")
    assert {one.name.partition("/")[0] for one in plan.indicators} == {"national-2025", "seed-criteria", "plain"}
    titles = [one.title for one in plan.indicators] + [one.title for one in plan.inputs.values()]
    titles += [factor.title for factor in shipped().values()] + [one.title for one in shipped_sets().values()]
    titles += [one.note for one in plan.indicators if one.note]
    assert all(set(title) == {"en", "zh"} and all(title.values()) for title in titles)
    assert all(entry.source for factor in shipped().values() for entry in factor.entries)


def test_the_hash_is_of_the_meaning() -> None:
    def hashes(text: str) -> str:
        plan = f'schema = 1\nsets = []\n[[indicator]]\nid = "x"\ntitle = {{}}\nunit = "kWh"\nperiods = ["day"]\n{text}'
        return load_plan(plan, "p").indicators[0].hash

    one = hashes('numerator = "grid.import-grid.export"')
    assert one == hashes('numerator = "( grid.import ) - grid.export"'), "spelling does not matter"
    assert one != hashes('numerator = "grid.export - grid.import"')
    assert hashes('numerator = "green_used"') != one


PLAN = """
schema = 1
sets = ["national-2025", "natinal-2025"]
assume = { "declared.certificat" = 3 }
exclude = { "national-2025/solid_wast" = "none", "national-2025/water_reuse" = " " }
pin = { "power.fossil.cn" = 1999, "power.fosil.cn" = 2022 }
threshold = { "national-2025/clean_share" = [{ at_most = 1, at_least = 2 }] }
[[term]]
name = "waste"
formula = "grid.import + water.fresh.volume"
unit = "kWh"
title = {}
[[indicator]]
id = "mine"
title = {}
numerator = "grid.imports"
unit = "kWh"
periods = ["day"]
[[indicator]]
id = "other"
title = {}
numerator = "grid.import"
unit = "m3"
periods = ["day"]
[[input]]
name = "roof"
unit = "m2"
kind = "state"
title = {}
"""


def test_all_complaints_of_a_plan_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        load_plan(PLAN, "plan.toml")
    said = "\n".join(str(one) for one in caught.value.complaints)
    for words in (
        'unknown set "natinal-2025" (did you mean national-2025?)',
        "assume.declared.certificat: unknown input (did you mean declared.certificates?)",
        "unknown indicator (did you mean national-2025/solid_waste?)",
        "national-2025/water_reuse: the reason is missing",
        "pin.power.fossil.cn: has no entry of 1999; there are 2021, 2022, 2023",
        "unknown factor (did you mean power.fossil.cn?)",
        "clean_share: threshold: needs exactly one of at_most, at_least, above, below",
        "term waste: the operator + cannot combine energy and volume",
        "indicator mine: numerator: grid.imports is unknown",
        "indicator other: the formula gives energy, its unit 'm3' is volume",
        "invalid name of an input",
    ):
        assert words in said, said
    assert all(str(one).startswith("plan.toml:") for one in caught.value.complaints)


def test_a_wrong_assumed_value_is_the_only_thing_that_is_wrong() -> None:
    """The set that has the input was blamed, without a line, and so was each formula that needs the input."""
    with pytest.raises(ConfigError) as caught:
        load_plan('schema = 1\n[assume]\n"declared.certificates" = "three"', "plan.toml")
    (said,) = [str(one) for one in caught.value.complaints or (caught.value,)]
    assert said == 'plan.toml:3: assume.declared.certificates: "three" is not a plain decimal number'


@pytest.mark.parametrize("text", ["grid.import * 2", "electricity + grid.import", "3 [kWh]"])
def test_only_names_can_be_weighed(text: str) -> None:
    """A formula in ``weighs`` ended check, the start and a reload with an internal error."""
    plan = (
        'schema = 1\n[[indicator]]\nid = "x"\ntitle = {}\nnumerator = "grid.import"\nunit = "kWh"\nperiods = ["day"]\n'
    )
    with pytest.raises(ConfigError) as caught:
        load_plan(f'{plan}weighs = ["{text}"]', "plan.toml")
    said = str(caught.value.complaints[0])
    assert said.startswith("plan.toml:8: indicator x: weighs: ") and f'"{text}" is not the name of' in said
    assert load_plan(f'{plan}weighs = [" grid.import "]', "plan.toml").indicators[-1].weighs[0][0] == "grid.import"


def test_a_quotient_has_the_units_of_its_numerator_and_denominator() -> None:
    """Only the quotient was checked: an energy over area and time was published in W, with its value in joules."""
    head = (
        'schema = 1\nsets = ["seed-criteria"]\n[[indicator]]\nid = "x"\ntitle = {}\nperiods = ["day"]\nunit = "W/m2"\n'
    )
    area, time = "declared.roof_suitable", "period.duration"
    with pytest.raises(ConfigError) as caught:
        load_plan(f'{head}numerator = "grid.import"\ndenominator = "{area} * {time}"', "plan.toml")
    said = str(caught.value.complaints[0])
    assert "plan.toml:7: indicator x: numerator: the formula gives energy, its unit 'W' is" in said, said
    plan = load_plan(f'{head}numerator = "grid.import / {time}"\ndenominator = "{area}"', "plan.toml")
    units = plan.indicators[-1].numerator_unit, plan.indicators[-1].denominator_unit
    assert units == (parse_unit("W"), parse_unit("m2"))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("schema = 1\nsets = 3", "plan.toml:2: sets: 3 is not a list"),
        ("schema = 2", "plan.toml:1: schema: unknown value 2. Allowed: 1"),
        ("schema = 1\nsats = []", "sats: unknown key. Did you mean"),
        ("schema = ", "plan.toml:1: this value is not understood"),
        (
            'schema = 1\n[[factor]]\nid = "x"\nunit = "kWh"\ntitle = {}\nentry = []',
            "needs at least one entry, and one per year only",
        ),
    ],
)
def test_a_broken_plan(text: str, complaint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_plan(text, "plan.toml")
    said = "\n".join(str(one) for one in (caught.value.complaints or (caught.value,)))
    assert complaint in said
