"""Makes the rows of the energy balance for terminal and HTML: flows, and the residual of the site and of each node.

Names and units are cleaned before they become part of a row: an amount has thin spaces, which ``clean_text`` replaces.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any

from agent.cli.common import COLON
from agent.cli.report.labels import BALANCE_WORDS, WORDS, number, percent, share, unit
from drivers.model import clean_text

ODD = Decimal("0.5")  # if the residual is a larger share of the total input, it is too large for losses
JUDGED_WHOLE = ("within", "beyond", "unknown")  # the verdicts that are given if no reading is missing
JUDGED = ("within", "beyond", "unknown", "spread", "incomplete")


def site_row(balance: Mapping[str, Any], language: str) -> str:
    """Return the balance of the site as one sentence; "" if the site has no balance."""
    words, unit = BALANCE_WORDS[language], clean_text(balance["u"], 20)
    if balance.get("missing"):
        return f"{words[balance['verdict']]}{WORDS[language]['colon']}{_names(balance['missing'])}"
    if "residual" not in balance:
        return ""
    amounts = [f"{words[name]} {number(balance[name])} {unit}" for name in ("given", "residual", "allowed")]
    amounts[1] += _share(balance)
    marks = WORDS[language]
    return f"{marks['comma'].join(amounts)}{marks['colon']}{words[balance['verdict']]}"


def _share(balance: Mapping[str, Any]) -> str:
    """Return the residual as a share of the input; "" if readings are missing, or if the share is implausibly large."""
    given = Decimal(balance["given"])
    if balance["verdict"] not in JUDGED_WHOLE or given <= 0 or is_odd(balance):
        return ""
    return f" ({percent(str(Decimal(balance['residual']) / given))})"


def is_odd(balance: Mapping[str, Any]) -> bool:
    """True if no reading is missing, but the residual is too large for losses, so that probably a meter is wrong."""
    if balance.get("missing") or "residual" not in balance or balance["verdict"] not in JUDGED_WHOLE:
        return False
    return abs(Decimal(balance["residual"])) > ODD * max(Decimal(balance["given"]), Decimal(0))


def counts_row(balance: Mapping[str, Any], language: str) -> str:
    """Return how many parts of the period have each verdict, such as ``within 94, beyond 2``."""
    words, counts = BALANCE_WORDS[language], balance["counts"]
    return WORDS[language]["comma"].join(
        f"{words['short_' + name]} {counts[name]}" for name in JUDGED if counts.get(name)
    )


def unknown_row(balance: Mapping[str, Any], language: str) -> str:
    """Return a text that lists the meters of unknown accuracy class; "" if there are none."""
    names = sorted({name for one in (balance, *balance.get("nodes", ())) for name in one.get("unknown", ())})
    return f"{BALANCE_WORDS[language]['no_class']}{COLON[language]}{_names(names)}" if names else ""


def _names(names: Sequence[str]) -> str:
    return clean_text(", ".join(names), 400)


def node_heads(language: str) -> tuple[str, ...]:
    """Return the column heads for ``node_rows``."""
    words = BALANCE_WORDS[language]
    return tuple(words[name] for name in ("meter", "against", "own", "others", "residual", "allowed", "verdict"))


def node_rows(balance: Mapping[str, Any], language: str) -> Iterator[tuple[str, ...]]:
    """Yield a row for each node of the meter tree.

    A node is compared with the meters below it, or with its check meter.
    """
    words = BALANCE_WORDS[language]
    for node in balance.get("nodes", ()):
        against = words["children"] if node["against"] == "children" else clean_text(node["against"])
        names = ("own", "others", "residual", "allowed")
        figures = (f"{number(node[name])} {clean_text(node['u'], 20)}" if name in node else "–" for name in names)
        yield (clean_text(node["n"]), against, *figures, words[node["verdict"]])


def flow_rows(balance: Mapping[str, Any], language: str, title: Any) -> Iterator[tuple[str, str, str]]:
    """Yield (side, title, amount) for each input and output. ``title``: a function that returns the title of a flow."""
    words = BALANCE_WORDS[language]
    for side in ("inputs", "outputs"):
        for one in balance.get(side, ()):
            yield words[side], title(one["n"]), f"{number(one['v'], 6)} {clean_text(balance['u'], 20)}"


def derived_rows(derived: Sequence[Mapping[str, Any]], language: str) -> Iterator[tuple[str, str, str]]:
    """Yield (name, value, known share) for each derived point; (name, "–", missing meters) if it has no value."""
    missing = WORDS[language]["missing"]
    for one in derived:
        if "v" in one:
            yield one["id"], f"{number(one['v'], 6)} {unit(one)}", share(one["completeness"])
        else:
            yield one["id"], "–", f"{missing}{COLON[language]}{', '.join(one['missing'])}"
