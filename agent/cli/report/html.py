"""Writes the report as one HTML file without scripts and external resources, suitable for printing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from html import escape
from typing import Any
from zoneinfo import ZoneInfo

from agent.cli.report import balance as balance_rows
from agent.cli.report import charts, meters
from agent.cli.report.labels import (
    BALANCE_WORDS,
    WORDS,
    cited,
    is_known_enough,
    lacking,
    number,
    own_text,
    percent,
    share,
    target,
    text_in,
    unit,
    value_of,
    verdict_of,
)
from agent.indicators.quantities import title_of

_STYLE = """
:root{--ink:#1b2a33;--soft:#56666f;--line:#d8e0e4;--good:#1c7c4a;--bad:#b3362b;--warn:#9a6100;--bar:#3f8fb5;
--worst:#d98032;--none:#c9d1d6;--paper:#fff}
@media screen and (prefers-color-scheme:dark){:root{--ink:#e4ecf0;--soft:#9fb0ba;--line:#33434c;--good:#58c48b;
--bad:#f08a7d;--warn:#e0b25a;--bar:#5fb0d6;--worst:#e7a05c;--none:#3b4a53;--paper:#131c21}}
*{box-sizing:border-box}body{margin:0 auto;max-width:64rem;padding:2rem 1.2rem;background:var(--paper);color:var(--ink);
font:15px/1.55 system-ui,"Noto Sans CJK SC","Microsoft YaHei",sans-serif}
h1{font-size:1.6rem;margin:0}h2{font-size:1.15rem;margin:2.2rem 0 .6rem;border-bottom:1px solid var(--line)}
.soft{color:var(--soft)}.small{font-size:.85rem}.warn{color:var(--warn)}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(19rem,1fr));gap:1rem}
.card{border:1px solid var(--line);border-radius:.5rem;padding:.9rem 1rem;break-inside:avoid}
.narrow{max-width:30rem;margin-bottom:1rem}
.card h3{font-size:1rem;margin:0 0 .3rem;font-weight:600}.big{font-size:1.9rem;font-weight:650;line-height:1.2}
.met{color:var(--good)}.notmet{color:var(--bad)}
.wide{overflow-x:auto}.wide svg{min-width:40rem}
table{border-collapse:collapse;width:100%;font-size:.88rem;margin:.4rem 0}
th,td{text-align:left;padding:.25rem .6rem .25rem 0;border-bottom:1px solid var(--line);vertical-align:top}
thead{display:table-header-group}tr{break-inside:avoid}td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}
svg{width:100%;height:auto;display:block;margin:.5rem 0 0;break-inside:avoid}rect.b{fill:var(--bar)}
rect.w{fill:var(--worst)}rect.unknown{fill:var(--none);opacity:.55}line.t{stroke:var(--bad);stroke-dasharray:4 3}
line.z{stroke:var(--soft)}line.g{stroke:var(--line)}path.c{fill:none;stroke-width:1.6}
svg text{fill:var(--soft);font-size:10px}
.key{margin:.1rem 0 .6rem}.key span{display:inline-block;margin-right:1em;color:var(--soft)}.key .u{font-weight:600}
.key i{display:inline-block;width:.8em;height:.8em;margin-right:.35em}i.b{background:var(--bar)}
i.w{background:var(--worst)}i.unknown{background:var(--none)}i.t{border-top:2px dashed var(--bad);height:.35em}
.share{height:.35rem;background:var(--none);border-radius:.2rem;margin:.35rem 0}
.share i{display:block;height:100%;background:var(--good);border-radius:.2rem}.share.low i{background:var(--warn)}
@page{margin:14mm 12mm}
@media print{*{print-color-adjust:exact;-webkit-print-color-adjust:exact}
body{padding:0;max-width:none;font-size:12px}h2{break-after:avoid}
.cards{grid-template-columns:repeat(2,1fr)}.wide{overflow:visible}.wide svg{min-width:0}}
"""


def page(report: Mapping[str, Any], language: str) -> str:
    """Return the content of the whole HTML file."""
    words = WORDS[language]
    zone = ZoneInfo(report["timezone"])
    period = report["period"]
    title = f"{words['report']} {period['label']}"
    place = escape(own_text(report["label"], language) or report["site"])
    has_begun = period["until"] > period["from"]
    until = datetime.fromtimestamp(period["until" if has_begun else "from"], zone).strftime("%Y-%m-%d %H:%M")
    body = [
        f'<h1>{escape(title)}</h1><p class="soft">{place} · {escape(report["site"])}/{escape(report["gateway"])} · '
        f"{escape(report['timezone'])} · {words['until' if has_begun else 'future']} {until}</p>"
    ]
    if not any(figure.get("v") for figure in report["figures"]):
        body.append(f"<p>{words['nothing']}</p>")
    if text := meters.roleless(report, language):
        body.append(f'<p class="warn">{escape(text)}</p>')
    body.append(charts.curve(report, language, zone))
    for one in (*report["sets"], {"id": "site", "title": {language: words["own_figures"]}, "source": ""}):
        mine = [figure for figure in report["figures"] if figure["id"].startswith(one["id"] + "/")]
        if mine:
            body.append(f"<h2>{escape(text_in(one['title'], language))}</h2>")
            if one["source"]:
                source = escape(cited(one["source"], language))
                body.append(f'<p class="soft small">{words["source"]}{words["colon"]}{source}</p>')
            body.append('<div class="cards">' + "".join(_card(figure, report, language) for figure in mine) + "</div>")
    body.append(_trace(report["trace"], period, language, zone))
    body.append(_balance(report, language))
    body.append(_meters(report, language))
    body.append(_inputs(report["figures"], language))
    body.append(_factors(report["figures"], language))
    if report["excluded"]:
        rows = [(text_in(one["title"], language), own_text(one["why"], language)) for one in report["excluded"]]
        body.append(f"<h2>{words['excluded']}</h2>{_table((words['figure'], words['note']), rows)}")
    return (
        f'<!doctype html><html lang="{language}"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width,initial-scale=1"><style>{_STYLE}</style></head>'
        f"<body>{''.join(body)}</body></html>\n"
    )


def _card(figure: Mapping[str, Any], report: Mapping[str, Any], language: str) -> str:
    words, verdict, value = WORDS[language], verdict_of(figure, report["period"]), value_of(figure)
    kind = {"met": "met", "not met": "notmet"}.get(verdict, "")
    gate = f' <span class="soft small">{words[figure["gate"]]}</span>' if figure["gate"] else ""
    title = text_in(figure["title"], language)
    parts = [
        f"<h3>{escape(title)}{gate}</h3>",
        f'<div class="big {kind}">{number(value)} <span class="small">{escape(unit(figure))}</span></div>',
        f'<div class="small {kind}">{escape(" ".join(filter(None, (target(figure), words[verdict]))))}</div>',
    ]
    if value:
        parts.append(_known(figure, language, report["period"]["until"] >= report["period"]["to"]))
        each = words[{"day": "each hour", "month": "each day"}.get(report["period"]["kind"], "each month")]
        parts.append(
            charts.bars(
                figure["trend"],
                unit(figure),
                language,
                title,
                list(figure.get("threshold", {}).values()),
                figure.get("worst"),
                each,
            )
        )
    if figure["drags"] and value:
        heavy = words["semicolon"].join(
            f"{escape(text_in(one['title'], language))} {number(one['v'])} {escape(unit(one))}"
            + (f" ({percent(one['share'])})" if one["share"] else "")
            for one in figure["drags"]
        )
        parts.append(f'<div class="small">{words["drags"]}{words["colon"]}{heavy}</div>')
    if why := lacking(figure, language):
        parts.append(f'<div class="small">{escape(why)}</div>')
    monitoring = words["monitoring"] if figure["monitoring"] and value else ""
    for text in (text_in(figure["note"], language), monitoring):
        if text:
            parts.append(f'<div class="soft small">{escape(text)}</div>')
    return f'<div class="card">{"".join(parts)}</div>'


def _known(figure: Mapping[str, Any], language: str, is_over: bool) -> str:
    """Return the known share as a bar and as text. It is always shown together with the value."""
    words, width = WORDS[language], min(max(float(figure["completeness"]), 0.0), 1.0)
    low = "" if is_known_enough(figure) else " low"
    text = words["time known" if is_over else "so far known"].format(share(figure["completeness"]))
    if figure["estimated"] != "0":
        text += " · " + words["amount estimated"].format(percent(figure["estimated"]))
    return (
        f'<div class="share{low}"><i style="width:{width * 100:.1f}%"></i></div>'
        f'<div class="small {"warn" if low else "soft"}">{escape(text)}</div>'
    )


def _trace(trace: Mapping[str, Any], period: Mapping[str, Any], language: str, zone: ZoneInfo) -> str:
    words = WORDS[language]
    if trace["consumption"] == "0":
        return ""
    names = ("consumption", "own", "direct", "storage", "grid", "certified")
    rows: list[Sequence[str]] = [(words[name], f"{number(trace[name], 6)} kWh") for name in names]
    rows += [(words[name], share(trace[name])) for name in ("at_the_time", "with_certificates")]
    if "known" in trace:
        rows.append((words["known"], share(trace["known"])))
    if trace["incomplete"]:
        rows.append((words["incomplete"], str(trace["incomplete"])))
    parts = [f"<h2>{words['trace']}</h2>", charts.stack(trace, period, language, zone)]
    parts.append(_table((words["trace"], words["amount"]), rows))
    if trace["issued"]:
        rests = ("traded_rest", "held_rest")
        heads = (words["label"], words["traded"], words["held"], words["rest"])
        rows = [
            (one["label"], str(one["traded"]), str(one["held"]), " / ".join(number(one[name]) for name in rests))
            for one in trace["issued"]
        ]
        parts.append(f'<p class="small">{words["issued"]}</p>{_table(heads, rows)}')
    return "".join(parts)


def _balance(report: Mapping[str, Any], language: str) -> str:
    words, balance, parts = BALANCE_WORDS[language], report.get("balance"), []
    if balance is not None:
        parts.append(f"<h2>{words['balance']}</h2>")
        if text := balance_rows.site_row(balance, language):
            kind = {"within": "met", "beyond": "notmet"}.get(balance["verdict"], "")
            parts.append(f'<p class="{kind}">{escape(text)}</p>')
            if balance_rows.is_odd(balance):
                parts.append(f'<p class="warn">{escape(words["not reliable"])}</p>')
            worst = max(balance["trend"], key=lambda one: abs(float(one["v"] or 0)), default=None)
            chart = charts.bars(
                balance["trend"], balance["u"], language, words["residual"], worst=worst,
                each=words["residual"],
            )  # fmt: skip
            counts = f"{words['stretches']}{WORDS[language]['colon']}{balance_rows.counts_row(balance, language)}"
            parts.append(f'<div class="card narrow">{chart}<div class="soft small">{escape(counts)}</div></div>')
        titles = {one["n"]: text_in(one["title"], language) for figure in report["figures"] for one in figure["inputs"]}
        flows = list(
            balance_rows.flow_rows(
                balance, language, lambda name: titles.get(name) or text_in(title_of(name), language)
            )
        )
        if flows:
            parts.append(_table((words["balance"], WORDS[language]["input"], WORDS[language]["amount"]), flows))
        if nodes := list(balance_rows.node_rows(balance, language)):
            parts.append(_table(balance_rows.node_heads(language), nodes))
        if text := balance_rows.unknown_row(balance, language):
            parts.append(f'<p class="soft small">{escape(text)}</p>')
    if derived := list(balance_rows.derived_rows(report.get("derived", ()), language)):
        heads = (words["derived"], WORDS[language]["amount"], WORDS[language]["known"])
        parts.append(f"<h2>{words['derived']}</h2>{_table(heads, derived)}")
    return "".join(parts)


def _meters(report: Mapping[str, Any], language: str) -> str:
    found = list(meters.rows(report, language))
    if not found:
        return ""
    return f"<h2>{WORDS[language]['devices']}</h2>{_table(meters.heads(language), found)}"


def _inputs(figures: Iterable[Mapping[str, Any]], language: str) -> str:
    words = WORDS[language]
    seen: dict[str, Sequence[str]] = {}
    nowhere: dict[str, str] = {}  # titles of inputs that the park does not have, and that therefore count as zero
    for figure in figures:
        for one in figure["inputs"]:
            note = own_text(one.get("note", ""), language)
            if one["basis"] in ("absent", "assumed") and not float(one["v"]):
                nowhere[one["n"]] = text_in(one["title"], language) + (f" ({note})" if note else "")
                continue
            known = share(one["completeness"]) if one["basis"] == "metered" else note
            if one["basis"] == "declared" and "estimated" in one:
                known = words["shared"].format(percent(one["estimated"]))
            shown = (
                text_in(one["title"], language),
                one["n"],
                f"{number(one['v'], 6)} {unit(one)}",
                words[one["basis"]],
            )
            seen.setdefault(one["n"], (*shown, known))
    if not seen and not nowhere:
        return ""
    heads = (words["inputs"], words["input"], words["amount"], words["basis"], words["known"])
    table = _table(heads, seen.values()) if seen else ""
    names = words["semicolon"].join(nowhere.values())
    rest = f"{words['not in the park']}{words['colon']}{names}" if nowhere else ""
    return f"<h2>{words['inputs']}</h2>{table}" + (f'<p class="soft small">{escape(rest)}</p>' if rest else "")


def _factors(figures: Iterable[Mapping[str, Any]], language: str) -> str:
    words = WORDS[language]
    seen: dict[str, Sequence[str]] = {}
    for figure in figures:
        for one in figure["factors"]:
            status = words["factor_assumed" if one["status"] == "assumed" else one["status"]]
            source = ", ".join(filter(None, (cited(one["source"], language), one.get("published"))))
            seen.setdefault(one["id"], (one["id"], f"{one['v']} {one['u']}", status, source))
    if not seen:
        return ""
    heads = (words["factors"], words["value"], words["status"], words["source"])
    return f"<h2>{words['factors']}</h2>{_table(heads, [seen[name] for name in sorted(seen)])}"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    top = "".join(f"<th>{escape(text)}</th>" for text in heads)
    body = "".join("<tr>" + "".join(f"<td>{escape(text)}</td>" for text in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'
