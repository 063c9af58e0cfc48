"""Labels of the report in English and Chinese, and the format of its numbers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from decimal import ROUND_HALF_EVEN, Decimal
from typing import TYPE_CHECKING, Any, Final
from zoneinfo import ZoneInfo

from agent.cli.common import show_unit

if TYPE_CHECKING:
    from agent.cli.findings import Silence

WORDS: Final[Mapping[str, Mapping[str, str]]] = {
    "en": {
        "report": "Energy and carbon report", "wrote": "wrote",
        "day": "day", "month": "month", "year": "year", "rolling": "365 days",
        "until": "known until", "figure": "figure", "value": "value", "target": "target", "verdict": "verdict",
        "trend": "trend", "drags": "main factors", "known": "known", "estimated": "estimated", "worst": "worst",
        "met": "met", "not met": "not met", "no threshold": "", "no data": "no data", "missing": "missing",
        "monitoring": "monitoring value: official figures are for a calendar year",
        "core": "core", "guiding": "guiding", "source": "Source", "excluded": "Left out by the plan",
        "inputs": "Inputs", "input": "input", "basis": "basis", "amount": "amount", "factors": "Factors",
        "metered": "metered", "declared": "declared", "assumed": "assumed", "absent": "not in the park",
        "trace": "Green power, hour by hour", "consumption": "consumption", "own": "on-site generation",
        "direct": "direct line", "storage": "from storage", "grid": "from the grid",
        "certified": "covered by certificates", "at_the_time": "green when it was used",
        "with_certificates": "green with certificates", "incomplete": "hours with incomplete data",
        "issued": "Certificates that on-site generation earns (1 = 1,000 kWh)", "traded": "for power sold",
        "held": "for power used on site, not tradable", "rest": "kWh carried over", "label": "month", "note": "note",
        "own_figures": "The park's own figures", "shared": "{} by its share of time",
        "zero": "nothing to divide by: {}",
        "nothing": "There is no data for this period.",
        "first interval": "Figures are computed from whole intervals of {}: the first one is available at {}.",
        "status": "status", "formula": "formula",
        "quoted": "quoted, check against the publication", "official": "official",
        "factor_assumed": "assumed, no official value found",
        "not enough": "too little data for a verdict",
        "unmetered": "no device has a role that this needs",
        "not in the park": "Counted as zero",
        "roleless": "Metered, but in no figure, because agent.toml gives no role: {}", "curve": "Power over the day",
        "unknown time": "incomplete data", "target line": "target", "devices": "Meters and their missing data",
        "device": "meter", "role": "role",
        "counted": "counted", "gaps": "amount not known", "none": "none", "and more": "and {} more",
        "reasons": "why readings are missing", "some points": "{} (some points)", "not counted": "in no figure",
        "silent since": "no usable answer since {}",
        "silent since start": "no usable answer since the agent's start or reload at {}",
        "reasons unknown": "reason not recorded", "reasons since": "before {}: reason not recorded",
        "no role": "no role", "begin of day": "the whole period",
        "each hour": "by hour", "each day": "by day", "each month": "by month",
        "time known": "{} of the time known", "so far known": "{} of the time so far known",
        "amount estimated": "{} of the amount estimated", "future": "starts at",
        "colon": ": ", "semicolon": "; ", "comma": ", ",
    },
    "zh": {
        "report": "能源与碳排放报告", "wrote": "已写入",
        "day": "日", "month": "月", "year": "年", "rolling": "近365天",
        "until": "数据截至", "figure": "指标", "value": "数值", "target": "目标", "verdict": "判定",
        "trend": "趋势", "drags": "主要影响因素", "known": "数据完整率", "estimated": "估算占比", "worst": "最差",
        "met": "达标", "not met": "未达标", "no threshold": "", "no data": "无数据", "missing": "缺少",
        "monitoring": "监测值：正式指标按自然年核算",
        "core": "核心指标", "guiding": "引导指标", "source": "依据", "excluded": "方案中排除的指标",
        "inputs": "输入量", "input": "输入", "basis": "来源", "amount": "数量", "factors": "因子",
        "metered": "计量", "declared": "申报", "assumed": "假定", "absent": "园区无此项",
        "trace": "绿电逐时溯源", "consumption": "用电量", "own": "自发自用",
        "direct": "绿电直连", "storage": "储能放电", "grid": "网购电",
        "certified": "绿证覆盖", "at_the_time": "同时段绿电占比",
        "with_certificates": "含绿证绿电占比", "incomplete": "数据不完整的小时数",
        "issued": "自发电量可核发绿证（1个=1000千瓦时）", "traded": "上网电量", "held": "自用电量（不可交易）",
        "rest": "结转千瓦时", "label": "月份", "note": "说明",
        "own_figures": "园区自定义指标", "shared": "{} 按时间分摊", "zero": "分母为零：{}",
        "nothing": "该时段无数据。",
        "first interval": "指标按完整的{}时段计算：首个时段在 {} 可用。", "status": "状态", "formula": "公式",
        "quoted": "引用值，发布前请核对原文", "official": "官方",
        "factor_assumed": "假定值，未见官方数值",
        "not enough": "数据不足，不作判定",
        "unmetered": "没有设备具有所需的计量角色",
        "not in the park": "按零计入",
        "roleless": "已计量但未计入任何指标（agent.toml 中未设角色）：{}", "curve": "当日功率曲线",
        "unknown time": "数据不完整", "target line": "目标值", "devices": "计量点及缺数情况",
        "device": "计量点", "role": "角色",
        "counted": "计量值", "gaps": "计量不全时段", "none": "无", "and more": "另有 {} 段",
        "reasons": "缺数原因", "some points": "{}（部分测点）", "not counted": "未计入指标",
        "silent since": "自 {} 起无有效应答", "silent since start": "自采集程序 {} 启动或重载起无有效应答",
        "reasons unknown": "未记录原因", "reasons since": "{} 之前未记录原因",
        "no role": "无角色", "begin of day": "整个统计期",
        "each hour": "逐时", "each day": "逐日", "each month": "逐月",
        "time known": "时间完整率 {}", "so far known": "截至目前的时间完整率 {}",
        "amount estimated": "估算量占比 {}", "future": "开始时间",
        "colon": "：", "semicolon": "；", "comma": "，",
    },
}  # fmt: skip
CSV_WORDS: Final[Mapping[str, Mapping[str, str]]] = {  # do not change the English words, because programs read them
    "en": {
        "id": "id", "title": "title", "period": "period", "value": "value", "unit": "unit", "target": "target",
        "verdict": "verdict", "official": "official", "completeness": "completeness", "estimated": "estimated",
        "numerator": "numerator", "denominator": "denominator", "formula_hash": "formula_hash", "factors": "factors",
        "from": "from", "to": "to", "consumption_kWh": "consumption_kWh", "own_kWh": "own_kWh",
        "direct_kWh": "direct_kWh", "storage_kWh": "storage_kWh", "grid_kWh": "grid_kWh",
        "exported_kWh": "exported_kWh", "complete": "complete", "true": "true", "false": "false",
    },
    "zh": {
        "id": "编号", "title": "指标", "period": "统计期", "value": "数值", "unit": "单位", "target": "目标",
        "verdict": "判定", "official": "正式指标", "completeness": "数据完整率", "estimated": "估算占比",
        "numerator": "分子", "denominator": "分母", "formula_hash": "公式哈希", "factors": "因子",
        "from": "起", "to": "止", "consumption_kWh": "用电量（kWh）", "own_kWh": "自发自用（kWh）",
        "direct_kWh": "绿电直连（kWh）", "storage_kWh": "储能放电（kWh）", "grid_kWh": "网购电（kWh）",
        "exported_kWh": "上网电量（kWh）", "complete": "数据完整", "true": "是", "false": "否",
    },
}  # fmt: skip
_SPANS: Final = (
    (86_400_000, 3, "days", "天"), (3_600_000, 1, "h", "小时"), (60_000, 1, "min", "分钟"), (1000, 1, "s", "秒"),
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
    for unit_ms, least, english, chinese in _SPANS:
        if ms >= unit_ms * least:
            return f"{number(str(Decimal(ms) / unit_ms), 3)} {chinese if language == 'zh' else english}"
    return f"{ms:.0f} ms"


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


BALANCE_WORDS: Final[Mapping[str, Mapping[str, str]]] = {
    "en": {
        "balance": "Balance of electricity", "derived": "Derived points", "given": "in", "residual": "residual",
        "allowed": "allowed error", "meter": "meter", "against": "compared with", "own": "this meter",
        "others": "the others", "verdict": "verdict", "children": "sum of the meters below it",
        "within": "within the allowed error", "beyond": "beyond the allowed error",
        "unknown": "not judged, as the accuracy class of a meter is not known",
        "spread": "not judged, as amounts were spread over time", "incomplete": "not judged, as readings are missing",
        "short_within": "within", "short_beyond": "beyond", "short_unknown": "class not known",
        "short_spread": "spread", "short_incomplete": "incomplete",
        "no_class": "Meters of unknown accuracy class", "inputs": "in", "outputs": "out",
        "stretches": "stretches", "residual over": "residual", "not reliable":
        "more goes out than comes in, or almost nothing is explained: a meter is missing, has another role, "
        "or is wired the other way round",
    },
    "zh": {
        "balance": "电量平衡", "derived": "导出量", "given": "输入", "residual": "不平衡量",
        "allowed": "计量允差", "meter": "计量点", "against": "对照", "own": "本表",
        "others": "对照表", "verdict": "判定", "children": "下级计量之和",
        "within": "在计量允差内", "beyond": "超出计量允差",
        "unknown": "未判定：有计量器具准确度等级未知",
        "spread": "未判定：电量按时间分摊", "incomplete": "未判定：缺少读数",
        "short_within": "允差内", "short_beyond": "超差", "short_unknown": "等级未知",
        "short_spread": "分摊", "short_incomplete": "不完整",
        "no_class": "准确度等级未知的计量器具", "inputs": "输入", "outputs": "输出",
        "stretches": "时段", "residual over": "不平衡量", "not reliable":
        "流出大于流入，或大部分电量去向不明：可能缺少计量点、角色有误，或互感器接反",
    },
}  # fmt: skip
