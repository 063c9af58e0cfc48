"""What is said of meters: classes, the tree, derived points; and what a technician is told of mistakes in them."""

from __future__ import annotations

from typing import Any

import pytest

from agent.config import DerivedConfig

MORE = """
[[device]]
name = "{name}"
line = "roof"
address = "{address}"
profile = "test/meter"
roles = {{ "ac" = "load" }}
{more}
"""
SUM = """
[[derived]]
name = "hall-2"
sum = ["main/ac.energy.import", "-third/ac.energy.import"]
"""


def device(name: str, address: int, more: str = "") -> str:
    return MORE.format(name=name, address=address, more=more)


def told(site: Any, good: str, *more: str) -> list[str]:
    site.write(good + "".join(more))
    return [line.partition(": ")[2] for line in site.complaints()]


def test_classes_of_a_device_and_of_its_parts(site: Any, good: str) -> None:
    site.write(good + device("third", 3, 'class = "0.5S"') + device("fourth", 4, 'class = { "ac" = "1.2 %" }'))
    third, fourth = site.load().devices[2:]
    assert (dict(third.accuracy), dict(fourth.accuracy)) == ({"": "0.5S"}, {"ac": "1.2 %"})


def test_a_class_that_the_profile_says_holds_where_the_device_says_none(site: Any, good: str) -> None:
    site.write(good + device("third", 3) + device("fourth", 4, 'class = "0.2"'))
    profile = site.folder / "profiles/test/meter.toml"
    plain = profile.read_text()
    profile.write_text(plain.replace('kind = "meter"', 'kind = "meter"\nclass = "1"'))
    main, _, third, fourth = site.load().devices
    assert (dict(main.accuracy), dict(third.accuracy), dict(fourth.accuracy)) == ({"": "1"}, {"": "1"}, {"": "0.2"})
    profile.write_text(plain.replace('kind = "meter"', 'kind = "meter"\nclass = "A1"'))
    assert 'invalid accuracy class "A1"' in site.complaints()[0]


def test_what_is_no_class(site: Any, good: str) -> None:
    assert told(site, good, device("third", 3, 'class = "0.5 A"')) == [
        'device.third.class: "0.5 A" is not an accuracy class. Write for example "0.5S", "1", "B", or a percentage of '
        'the whole chain such as "1.2 %"'
    ]
    assert told(site, good, device("third", 3, 'class = { "dc" = "1" }')) == [
        'device.third.class: the profile test/meter has no points with the prefix "dc". '
        "The profile has points with these prefixes: ac, ac.energy, ac.power"
    ]


def test_nothing_hangs_on_itself(site: Any, good: str) -> None:
    found = told(
        site,
        good,
        device("third", 3, 'parent = { "ac" = "fourth" }'),
        device("fourth", 4, 'parent = { "ac" = "third/ac" }'),
    )
    assert found == [
        "device.third.parent.ac: this parent forms a cycle: third > fourth > third. In the metering tree, a meter "
        "cannot be below itself",
        "device.fourth.parent.ac: this parent forms a cycle: fourth > third > fourth. In the metering tree, a meter "
        "cannot be below itself",
    ]


def test_a_part_that_is_none(site: Any, good: str) -> None:
    assert told(site, good, device("third", 3, 'parent = { "ac" = "main/dc" }')) == [
        'device.third.parent.ac: device main has no role for its part "dc". '
        "Write a meter of the tree as DEVICE, or as DEVICE/PART if this part has a role"
    ]


def test_a_load_below_a_load_is_told(site: Any, good: str) -> None:
    """Figures count both: a note, as it may be what a park wants to see."""
    site.write(good + device("third", 3) + device("fourth", 4, 'parent = { "ac" = "third" }'))
    (note,) = [str(note) for note in site.load().notes if "figures" in str(note)]
    assert (
        "device.fourth.parent.ac: in the metering tree, the load fourth is below the load third, so the park's figures "
        'count the energy of fourth twice. Give fourth a custom role, such as "x.fourth", or remove the role of third'
    ) in note


def test_derived_points_arrive(site: Any, good: str) -> None:
    site.write(good + device("third", 3) + SUM)
    assert site.load().derived == (
        DerivedConfig("hall-2", ((1, "main", "ac.energy.import"), (-1, "third", "ac.energy.import"))),
    )


def test_a_derived_point_of_points_that_are_not_read_is_told(site: Any, good: str) -> None:
    """Nothing was said, and the sum never had an amount. It is no error, because such a configuration has run."""
    site.write(good + device("third", 3) + 'points = ["ac.power.*"]\n' + SUM)
    (note,) = [str(note) for note in site.load().notes if "derived" in str(note)]
    assert (
        "derived.hall-2.sum: the point ac.energy.import of third is not read, so this derived point gets no values. "
        'Add ac.energy.import to the key "points" of the device third' in note
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('sum = ["main/ac.energy.imports"]', 'derived.x.sum: main has no point "ac.energy.imports". Did you mean'),
        ('sum = ["man/ac.energy.import"]', 'derived.x.sum: there is no device "man". Did you mean "main"?'),
        ('sum = ["main/ac.power.active"]', "derived.x.sum: the point ac.power.active is a gauge, not a counter"),
        (
            'sum = ["main"]',
            'derived.x.sum: "main" is not a term of a sum. Write for example "meter-1/ac.energy.import"',
        ),
        ("sum = []", "derived.x.sum: has 0 terms. Write at least 1 and at most 256 terms"),
        ("", 'derived.x: has neither the key "sum" nor the key "heat". Write sum ='),
        ('sum = ["main/ac.energy.import"]\nrole = "heat.recovered"', "derived.x.role: has no effect on a sum"),
        ('heat = { device = "main" }', 'derived.x.heat: the key "flow" is missing'),
        (
            'heat = { device = "main", flow = "ac.energy.import", supply = "ac.power.active", '
            'return = "ac.power.active" }',
            "derived.x.heat.flow: the point ac.energy.import is a counter, not a gauge",
        ),
    ],
)
def test_what_is_wrong_with_a_derived_point(site: Any, good: str, text: str, says: str) -> None:
    found = told(site, good, f'\n[[derived]]\nname = "x"\n{text}\n')
    assert found and found[0].startswith(says)
