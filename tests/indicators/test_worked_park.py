"""The worked park of notice 910 comes out exactly, and so do its sensitivities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction

import pytest

from agent.indicators.evaluate import evaluate
from agent.indicators.figure import Amount, Figure, Period, decimal_text
from agent.indicators.plan import load_plan
from agent.indicators.units import Unit, parse_unit

YEAR = Period("year", 1_735_660_800_000, 1_767_196_800_000, "2025", 2025, 31_536_000_000, 1_767_196_800_000)
PARK = {
    "grid.import": "120 GWh",
    "declared.certificates": "90 GWh",
    "direct.import": "500 GWh",
    "generation.pv.energy": "90 GWh",
    "gas.normal": "6000000 Nm3",
    "heat.supplied.energy": "200000 GJ",
    "heat.sold.energy": "20000 GJ",
}


class Given:
    """A supply of amounts that are written down."""

    def __init__(self, amounts: Mapping[str, str]) -> None:
        self._amounts = amounts

    def _find(self, name: str, basis: str) -> Amount | None:
        if name not in self._amounts:
            return None
        number, unit = self._amounts[name].split()
        parsed = parse_unit(unit)
        return Amount(name, Fraction(number) * parsed.factor, parsed, basis)  # type: ignore[arg-type]

    def metered(self, name: str, period: Period) -> Amount | None:
        return self._find(name, "metered")

    def declared(self, name: str, unit: Unit, kind: str, period: Period) -> Amount | None:
        return self._find(name, "declared")


def by_name(found: Sequence[Figure]) -> Mapping[str, Figure]:
    return {figure.indicator.name: figure for figure in found}


def figures(amounts: Mapping[str, str], plan: str = 'schema = 1\nsets = ["national-2025"]') -> Mapping[str, Figure]:
    return by_name(evaluate(load_plan(plan, "plan.toml"), YEAR, Given(amounts)))


def rounded(figure: Figure, digits: int) -> str:
    assert figure.value is not None
    return f"{float(figure.value / figure.indicator.unit.factor):.{digits}f}"


def test_the_worked_park() -> None:
    found = figures(PARK)
    core, clean = found["national-2025/co2_per_energy"], found["national-2025/clean_share"]
    assert rounded(core, 4) == "0.2527"
    assert rounded(clean, 2) == "89.86"
    assert core.numerator is not None and core.denominator is not None
    assert round(core.numerator / 1000) == 57_748, "t CO2"
    assert round(core.denominator / 1000) == 228_542, "tce"
    assert core.verdict == "not met" and core.threshold == ("at_most", "0.2"), "between 200 000 and 1 000 000 tce"
    assert clean.verdict == "not met" and clean.threshold == ("at_least", "90")
    assert core.official and {entry.name for entry in core.factors} >= {"power.fossil.cn@2022", "heat.co2@2025"}


@pytest.mark.parametrize(
    ("energy", "digits", "expected"),
    [
        ("grid.import 1000000 MWh", 2, "2.76"),
        ("gas.normal 1000000000 Nm3", 2, "1.63"),
        ("heat.supplied.energy 1000000 GJ", 2, "3.22"),
    ],
)
def test_tonnes_of_one_carrier(energy: str, digits: int, expected: str) -> None:
    name, number, unit = energy.split()
    assert rounded(figures({name: f"{number} {unit}"})["national-2025/co2_per_energy"], digits) == expected


@pytest.mark.parametrize(
    ("limit", "coal", "share"), [("0.2", "", "7.3"), ("0.3", "", "10.9"), ("0.2", "0.1229", "3.0")]
)
def test_the_share_of_power_that_may_be_other_than_green(limit: str, coal: str, share: str) -> None:
    """An all-electric park meets the limit at this share of other power, and fails a little above it."""
    plan = 'schema = 1\nsets = ["national-2025"]\n'
    plan += f'threshold = {{ "national-2025/co2_per_energy" = [{{ at_most = {limit} }}] }}\n'
    if coal:
        plan += '[[factor]]\nid = "power.coal.equal_value"\nunit = "kgce/kWh"\ntitle = { en = "wrong", zh = "误用" }\n'
        plan += f'[[factor.entry]]\nyear = 2020\nvalue = "{coal}"\nstatus = "assumed"\nsource = "a mistake"\n'

    def verdict(other: Fraction) -> str:
        amounts = {"grid.import": "1000000 MWh", "declared.certificates": f"{1_000_000 * (1 - other)} MWh"}
        return figures(amounts, plan)["national-2025/co2_per_energy"].verdict

    middle = Fraction(share) / 100
    step = Fraction(5, 10_000)
    assert (verdict(middle - step), verdict(middle + step)) == ("met", "not met")


def test_a_bigger_park_has_the_other_threshold() -> None:
    ten = {name: f"{int(text.split()[0]) * 10} {text.split()[1]}" for name, text in PARK.items()}
    core = figures(ten)["national-2025/co2_per_energy"]
    assert (core.threshold, core.verdict) == (("at_most", "0.3"), "met")
    small = {name: f"{Fraction(text.split()[0]) / 10} {text.split()[1]}" for name, text in PARK.items()}
    assert figures(small)["national-2025/co2_per_energy"].verdict == "no threshold", "below 200 000 tce none is known"


def test_a_month_is_held_against_the_threshold_of_a_year() -> None:
    month = replace(
        YEAR, kind="month", end_ms=YEAR.start_ms + 31 * 86_400_000, until_ms=YEAR.start_ms + 31 * 86_400_000
    )
    twelfth = {name: f"{Fraction(text.split()[0]) * 31 / 365} {text.split()[1]}" for name, text in PARK.items()}
    plan = load_plan('schema = 1\nsets = ["national-2025"]', "plan.toml")
    core = by_name(evaluate(plan, month, Given(twelfth)))["national-2025/co2_per_energy"]
    assert core.threshold == ("at_most", "0.2")
    assert not core.official, "a month is a monitoring value"


def test_what_was_assumed_is_told_apart() -> None:
    plan = 'schema = 1\nsets = ["national-2025"]\n[absent]\n"generation.wind" = "no wind turbine"\n'
    core = figures(PARK, plan)["national-2025/co2_per_energy"]
    bases = {amount.name: (amount.basis, amount.note) for amount in core.inputs}
    assert bases["grid.import"] == ("metered", "")
    assert bases["declared.certificates"] == ("declared", "")
    assert bases["declared.process_co2"] == ("assumed", "nothing was declared")
    assert bases["generation.wind.energy"] == ("absent", "no wind turbine")
    assert bases["steam.energy"] == ("assumed", "no meter has this role")


def test_what_comes_out_of_a_storage_earns_nothing() -> None:
    """A storage that discharged half the park's power changes neither the clean share nor the core figure."""
    stored = PARK | {"storage.charge": "360 GWh", "storage.discharge": "350 GWh"}
    for name, figure in figures(PARK).items():
        assert figures(stored)[name].value == figure.value


def test_a_missing_declaration_is_no_zero() -> None:
    waste = figures(PARK)["national-2025/solid_waste"]
    assert waste.value is None and waste.verdict == "no data"
    assert set(waste.missing) == {"declared.waste_generated", "declared.waste_used"}
    assert figures(PARK)["national-2025/water_reuse"].verdict == "no data", "0 of 0 is no share"


PER_SUN = """
schema = 1
sets = []
[[term]]
name = "per_sun"
unit = "%"
title = { en = "Per sun" }
formula = "grid.import / generation.pv.energy"
[[indicator]]
id = "own"
title = { en = "Own" }
numerator = "grid.import / generation.pv.energy"
unit = "%"
periods = ["year"]
[[indicator]]
id = "below"
title = { en = "Below" }
numerator = "grid.import"
denominator = "grid.import * grid.import / generation.pv.energy"
unit = "%"
periods = ["year"]
[[indicator]]
id = "judged"
title = { en = "Judged" }
numerator = "grid.import"
unit = "kWh"
periods = ["year"]
threshold = [{ at_most = "1", where = { term = "per_sun", at_least = "1", unit = "%" } }]
"""


def test_a_formula_that_divides_by_nothing_has_no_value() -> None:
    """At night it ended the computation of all figures until the next start of the agent."""
    day = figures({"grid.import": "10 kWh", "generation.pv.energy": "5 kWh"}, PER_SUN)
    assert rounded(day["site/own"], 0) == "200" and day["site/judged"].verdict == "not met"
    night = figures({"grid.import": "10 kWh", "generation.pv.energy": "0 kWh"}, PER_SUN)
    for name in ("site/own", "site/below"):
        assert night[name].value is None and night[name].verdict == "no data" and not night[name].missing
    assert night["site/own"].numerator is None and night["site/below"].denominator is None
    assert "v" not in night["site/own"].as_dict("") and not night["site/own"].parts
    assert night["site/judged"].threshold is None and rounded(night["site/judged"], 0) == "10"


def test_the_form_in_a_pack() -> None:
    core = figures(PARK)["national-2025/co2_per_energy"].as_dict("config-hash")
    assert core["v"] == "0.252681056114"
    assert core["numerator"] == {"u": "tCO2", "v": "57748.132854"}
    assert core["period"] == {
        "from": 1735660800,
        "kind": "year",
        "label": "2025",
        "to": 1767196800,
        "until": 1767196800,
    }
    assert core["threshold"] == {"at_most": "0.2"} and core["formula"]["numerator"] == "co2"


@pytest.mark.parametrize(
    ("value", "text"),
    [("0", "0"), ("1/3", "0.333333333333"), ("-2/3", "-0.666666666667"), ("1000", "1000"), ("5/2", "2.5"),
     ("123456789012345", "123456789012000"), ("1/1000000000", "0.000000001")],
)  # fmt: skip
def test_decimals(value: str, text: str) -> None:
    assert decimal_text(Fraction(value)) == text
