"""Labels of the report in English and Chinese, and the format of its numbers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from decimal import ROUND_HALF_EVEN, Decimal
from typing import TYPE_CHECKING, Any, Final
from zoneinfo import ZoneInfo

from agent.cli.common import measure, show_unit
from drivers.texts import Catalogue

if TYPE_CHECKING:
    from agent.cli.findings import Silence

WORDS: Final = Catalogue(__package__, "report")
CSV_WORDS: Final = Catalogue(__package__, "report csv")  # do not change the English words, because programs read them
_SPANS: Final = (
    (86_400_000, 3, "days"), (3_600_000, 1, "h"), (60_000, 1, "min"), (1000, 1, "s"),
)  # fmt: skip
_SIGNS = {"at_most": "≤", "at_least": "≥", "above": ">", "below": "<"}


ENOUGH: Final = Decimal("0.9")  # the verdict is "met" or "not met" only if at least this share of the period is known
_HAN = re.compile("[\u4e00-\u9fff]")
_CITED: Final[Mapping[str, str]] = {  # English part of a source -> translation; packs contain the sources in English
    "MEE/NBS factor announcement": "生态环境部、国家统计局因子公告", ", data year ": "，数据年份 ",
    ", as quoted by ": "，转引自 ", "Announcement 2025 No. 47": "2025年第47号公告",
    "annexes 3 and 4 (trial)": "附件3、附件4（试行）", "annex 3; accounting by annex 4": "附件3；核算按附件4",
    "annex 4 (the 2022 national fossil power factor)": "附件4（2022年全国火电排放因子）", "annex 4": "附件4",
    "notes on ": "据 ", "; clause not known": "，条款待查", "molar masses": "摩尔质量",
    "7.5.6 and 7.5.7": "7.5.6、7.5.7",
    "(1.1 to 1.33 by gas; a supplier's own value goes into the plan)": "（因气质为1.1至1.33；供气方的数值写入方案）",
    "(market intelligence): names and thresholds; formulas as noted": "（市场资料）：名称与阈值；公式见说明",
    "the last official national net coal rate; the value for 2025 and later is not confirmed":
        "最近一次官方全国供电煤耗；2025年及以后的数值未确认",
    "a meter that corrects to standard conditions itself; else the plan states it":
        "表计自行折算到标况，否则由方案给出",
    "definitions of this project, docs/indicators.md": "本项目的定义，见 docs/indicators.md",
}  # fmt: skip

_NOTES: Final[Mapping[str, str]] = {  # English note of an input -> translation; packs contain the notes in English
    "no meter has this role": "没有计量点具有此角色", "nothing was declared": "未申报",
}  # fmt: skip


def text_in(texts: Mapping[str, str], language: str) -> str:
    """Return the text in this language. If there is none, return the text in any other language."""
    return texts.get(language) or next(iter(texts.values()), "")


def own_text(text: str, language: str) -> str:
    """Return a text of the site.

    If the text has two languages ("no gas / 无燃气"), return only the part in ``language``.
    """
    if language == "zh":
        text = _NOTES.get(text, text)
    one, slash, other = text.partition(" / ")
    if not slash or bool(_HAN.search(one)) == bool(_HAN.search(other)):
        return text
    return one if bool(_HAN.search(one)) == (language == "zh") else other


def cited(text: str, language: str) -> str:
    """Return the source of a set of figures or of a factor. For Chinese, its English parts are translated."""
    if language == "zh":
        for english, chinese in _CITED.items():
            text = text.replace(english, chinese)
    return text


def is_known_enough(figure: Mapping[str, Any]) -> bool:
    """True if enough of the time up to now is known for a verdict."""
    return Decimal(figure["completeness"]) >= ENOUGH


def known_of_period(figure: Mapping[str, Any], period: Mapping[str, Any]) -> Decimal:
    """Return the known share of the whole period. The future counts as unknown.

    The ``completeness`` of the figure is different: it is the known share of the time up to now.
    """
    begun, end = int(period["from"]), int(period["to"])
    passed = min(max(int(period["until"]) - begun, 0), end - begun)
    return Decimal(figure["completeness"]) * passed / (end - begun)


def verdict_of(figure: Mapping[str, Any], period: Mapping[str, Any]) -> str:
    """Return the verdict to show.

    If too little of the period is known, "not enough" replaces ``met`` and ``not met``.
    """
    verdict: str = figure["verdict"]
    if figure.get("unmetered"):
        return "no data"
    is_open = verdict in ("met", "not met") and known_of_period(figure, period) < ENOUGH
    return "not enough" if is_open else verdict


def value_of(figure: Mapping[str, Any]) -> str:
    """Return the value to show for a figure; "" if there is none, or if no device has a role that the figure needs."""
    return "" if figure.get("unmetered") else figure.get("v", "")


def number(text: str, digits: int = 4) -> str:
    """Return a number rounded to ``digits`` significant digits; "–" for "".

    All digits before the decimal point are shown. Thin spaces separate thousands.
    """
    if not text:
        return "–"
    value = Decimal(text)
    places = max(0, digits - 1 - value.adjusted()) if value else 0
    shown = value.quantize(Decimal(1).scaleb(-places), rounding=ROUND_HALF_EVEN)
    plain = f"{shown or abs(shown):,f}".replace(",", "\u2009")  # abs is used so that -0 is shown as 0
    return plain.rstrip("0").rstrip(".") if "." in plain else plain


def percent(text: str) -> str:
    """Return a share from 0 to 1 as a percentage; "–" for ""."""
    return f"{number(str(Decimal(text) * 100), 3)} %" if text else "–"


def duration(ms: float, language: str) -> str:
    """Return a duration as text, such as ``12 s``, ``3 min``, ``2.5 h`` or ``31 days``."""
    for unit_ms, least, unit in _SPANS:
        if ms >= unit_ms * least:
            return measure(f"{number(str(Decimal(ms) / unit_ms), 3)} {unit}", language)
    return measure(f"{ms:.0f} ms", language)


def silent_since(silence: Silence, timezone: str, language: str) -> str:
    """Return a text such as ``no usable answer since 2026-11-24 10:05:12``.

    If the device has never answered, the text names the start or reload of the agent, because nothing is known about
    earlier times.
    """
    since = datetime.fromtimestamp(silence.since_s, ZoneInfo(timezone))
    text = WORDS[language]["silent since" if silence.answered else "silent since start"]
    return text.format(f"{since:%Y-%m-%d %H:%M:%S}")


def share(value: str | float) -> str:
    """Return a known or green share from 0 to 1 as a percentage; "–" for "". Only a full share gives "100 %"."""
    if value == "":
        return "–"
    found = Decimal(value)
    if found >= 1 or found <= 0:
        return "100 %" if found >= 1 else "0 %"
    small = found < Decimal("0.001")
    return "< 0.1 %" if small else f"{number(str(min(found * 100, Decimal('99.9'))), 3)} %"


def lacking(figure: Mapping[str, Any], language: str) -> str:
    """Return the reason why a figure has no value; "" if it has a value."""
    words = WORDS[language]
    if figure.get("unmetered"):
        return words["unmetered"]
    if figure.get("lacking"):
        names = [f"{text_in(one['title'], language)} ({one['n']})" for one in figure["lacking"]]
        return f"{words['missing']}{words['colon']}{words['semicolon'].join(names)}"
    if figure.get("zero"):
        return words["zero"].format(words["semicolon"].join(text_in(title, language) for title in figure["zero"]))
    return ""


def target(figure: Mapping[str, Any]) -> str:
    """Return the target of a figure, such as ``≤ 0.2``; "" if it has none."""
    return " ".join(f"{_SIGNS[kind]} {text}" for kind, text in figure.get("threshold", {}).items())


def unit(one: Mapping[str, Any]) -> str:
    """Return the unit of a figure or an amount, as people write it."""
    return show_unit(one["u"])


BALANCE_WORDS: Final = Catalogue(__package__, "report balance")
