"""The report as one HTML file: no scripts, no external resources, suitable for printing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from html import escape
from typing import Any
from zoneinfo import ZoneInfo

from agent.cli.report import balance as balance_rows
from agent.cli.report.labels import BALANCE_WORDS, WORDS, known_share, lacking, number, percent, target, text_in, unit
from agent.indicators.quantities import title_of

_STYLE = """
:root{--ink:#1b2a33;--soft:#5d6f7a;--line:#d8e0e4;--good:#1c7c4a;--bad:#b3362b;--bar:#3f8fb5;--worst:#d98032;--paper:#fff}
@media(prefers-color-scheme:dark){:root{--ink:#e4ecf0;--soft:#93a5af;--line:#33434c;--good:#58c48b;--bad:#f08a7d;
--bar:#5fb0d6;--worst:#e7a05c;--paper:#131c21}}
*{box-sizing:border-box}body{margin:0 auto;max-width:64rem;padding:2rem 1.2rem;background:var(--paper);color:var(--ink);
font:15px/1.55 system-ui,"Noto Sans CJK SC","Microsoft YaHei",sans-serif}
h1{font-size:1.6rem;margin:0}h2{font-size:1.15rem;margin:2.2rem 0 .6rem;border-bottom:1px solid var(--line)}
.soft{color:var(--soft)}.small{font-size:.85rem}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(19rem,1fr));gap:1rem}
.card{border:1px solid var(--line);border-radius:.5rem;padding:.9rem 1rem;break-inside:avoid}
.narrow{max-width:30rem;margin-bottom:1rem}
.card h3{font-size:1rem;margin:0 0 .3rem;font-weight:600}.big{font-size:1.9rem;font-weight:650;line-height:1.2}
.met{color:var(--good)}.notmet{color:var(--bad)}
table{border-collapse:collapse;width:100%;font-size:.88rem}th,td{text-align:left;padding:.25rem .6rem .25rem 0;
border-bottom:1px solid var(--line);vertical-align:top}td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}
svg{width:100%;height:auto;display:block;margin:.5rem 0}rect.b{fill:var(--bar)}rect.w{fill:var(--worst)}
line.t{stroke:var(--bad);stroke-dasharray:4 3}line.z{stroke:var(--line)}svg text{fill:var(--soft);font-size:9px}
.own{fill:#3f9d6b}.direct{fill:#7cc27f}.storage{fill:#d9b44a}.grid{fill:#8f9aa3}
.key i{display:inline-block;width:.8em;height:.8em;margin:0 .3em 0 1em}
@media print{body{padding:0;max-width:none}}
"""
_PARTS = (("own", "#3f9d6b"), ("direct", "#7cc27f"), ("storage", "#d9b44a"), ("grid", "#8f9aa3"))


def page(report: Mapping[str, Any], language: str) -> str:
    """The whole file."""
    words = WORDS[language]
    zone = ZoneInfo(report["timezone"])
    period = report["period"]
    title = f"{words['report']} {period['label']}"
    place = escape(report["label"] or report["site"])
    until = datetime.fromtimestamp(period["until"], zone).strftime("%Y-%m-%d %H:%M")
    body = [
        f'<h1>{escape(title)}</h1><p class="soft">{place} · {escape(report["site"])}/{escape(report["gateway"])} · '
        f"{escape(report['timezone'])} · {words['until']} {until}</p>"
    ]
    if not any(figure.get("v") for figure in report["figures"]):
        body.append(f"<p>{words['nothing']}</p>")
    for one in (*report["sets"], {"id": "site", "title": {language: words["own_figures"]}, "source": ""}):
        mine = [figure for figure in report["figures"] if figure["id"].startswith(one["id"] + "/")]
        if mine:
            body.append(f"<h2>{escape(text_in(one['title'], language))}</h2>")
            if one["source"]:
                body.append(f'<p class="soft small">{words["source"]}: {escape(one["source"])}</p>')
            body.append('<div class="cards">' + "".join(_card(figure, language) for figure in mine) + "</div>")
    body.append(_trace(report["trace"], language, zone))
    body.append(_balance(report, language))
    body.append(_inputs(report["figures"], language))
    body.append(_factors(report["figures"], language))
    if report["excluded"]:
        rows = [(text_in(one["title"], language), one["why"]) for one in report["excluded"]]
        body.append(f"<h2>{words['excluded']}</h2>{_table((words['figure'], words['note']), rows)}")
    return (
        f'<!doctype html><html lang="{language}"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width,initial-scale=1"><style>{_STYLE}</style></head>'
        f"<body>{''.join(body)}</body></html>\n"
    )


def _card(figure: Mapping[str, Any], language: str) -> str:
    words = WORDS[language]
    kind = {"met": "met", "not met": "notmet"}.get(figure["verdict"], "")
    verdict = words[figure["verdict"]]
    gate = f' <span class="soft small">{words[figure["gate"]]}</span>' if figure["gate"] else ""
    parts = [
        f"<h3>{escape(text_in(figure['title'], language))}{gate}</h3>",
        f'<div class="big {kind}">{number(figure.get("v", ""))} '
        f'<span class="small">{escape(unit(figure))}</span></div>',
        f'<div class="small {kind}">{escape(" ".join(filter(None, (target(figure), verdict))))}</div>',
    ]
    parts.append(_bars(figure))
    small = [f"{words['known']} {share}"] if (share := known_share(figure, language)) else []
    if figure["estimated"] != "0":
        small.append(f"{words['estimated']} {percent(figure['estimated'])}")
    if "worst" in figure:
        small.append(f"{words['worst']}: {escape(figure['worst']['label'])} ({number(figure['worst']['v'])})")
    parts.append(f'<div class="soft small">{" · ".join(small)}</div>')
    if figure["drags"]:
        heavy = "; ".join(
            f"{escape(text_in(one['title'], language))} {number(one['v'])} {escape(one['u'])} ({percent(one['share'])})"
            for one in figure["drags"]
        )
        parts.append(f'<div class="small">{words["drags"]}: {heavy}</div>')
    if why := lacking(figure, language):
        parts.append(f'<div class="small">{escape(why)}</div>')
    monitoring = words["monitoring"] if figure["monitoring"] and figure.get("v") else ""
    for text in (text_in(figure["note"], language), monitoring):
        if text:
            parts.append(f'<div class="soft small">{escape(text)}</div>')
    return f'<div class="card">{"".join(parts)}</div>'


def _bars(figure: Mapping[str, Any]) -> str:
    """The trend as bars, with the target as a dashed line."""
    values = [(one["label"], float(one["v"]) if one["v"] else None) for one in figure["trend"]]
    known = [value for _, value in values if value is not None]
    if len(known) < 2:
        return ""
    bounds = [float(text) for text in figure.get("threshold", {}).values()]
    top, bottom = max(*known, *bounds, 0.0), min(*known, 0.0)
    span = (top - bottom) or 1.0
    wide, high = 300.0, 70.0
    step = wide / len(values)

    def y(value: float) -> float:
        return 4 + (top - value) / span * high

    out = [f'<svg viewBox="0 0 {wide:g} {high + 18:g}" role="img" aria-label="{escape(figure["id"])}">']
    worst = figure.get("worst", {}).get("label")
    for n, (label, value) in enumerate(values):
        if value is None:
            continue
        upper, lower = y(max(value, 0.0)), y(min(value, 0.0))
        mark = "w" if label == worst else "b"
        out.append(
            f'<rect class="{mark}" x="{n * step + step * 0.1:.2f}" y="{upper:.2f}" width="{step * 0.8:.2f}" '
            f'height="{max(lower - upper, 0.6):.2f}"><title>{escape(label)}: {number(str(value))}</title></rect>'
        )
    out.append(f'<line class="z" x1="0" x2="{wide:g}" y1="{y(0.0):.2f}" y2="{y(0.0):.2f}"/>')
    out += [
        f'<line class="t" x1="0" x2="{wide:g}" y1="{y(b):.2f}" y2="{y(b):.2f}"><title>{b:g}</title></line>'
        for b in bounds
    ]
    for n in (0, len(values) - 1):
        anchor = "start" if n == 0 else "end"
        x = 0 if n == 0 else wide
        out.append(f'<text x="{x:g}" y="{high + 15:g}" text-anchor="{anchor}">{escape(values[n][0])}</text>')
    return "".join(out) + "</svg>"


def _trace(trace: Mapping[str, Any], language: str, zone: ZoneInfo) -> str:
    words = WORDS[language]
    if trace["consumption"] == "0":
        return ""
    names = ("consumption", "own", "direct", "storage", "grid", "certified")
    rows: list[Sequence[str]] = [(words[name], f"{number(trace[name], 6)} kWh") for name in names]
    rows += [(words[name], percent(trace[name])) for name in ("at_the_time", "with_certificates")]
    if trace["incomplete"]:
        rows.append((words["incomplete"], str(trace["incomplete"])))
    parts = [f"<h2>{words['trace']}</h2>", _stack(trace["hours"], zone)]
    if trace["hours"]:
        keys = "".join(f'<i style="background:{color}"></i>{words[name]}' for name, color in _PARTS)
        parts.append(f'<p class="small key">{keys}</p>')
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


def _stack(hours: Sequence[Mapping[str, Any]], zone: ZoneInfo) -> str:
    """Sources of each hour's consumption, one bar an hour."""
    if not hours:
        return ""
    wide, high = 900.0, 130.0
    top = max(float(one["consumption"]) for one in hours) or 1.0
    step = wide / len(hours)
    out = [f'<svg viewBox="0 0 {wide:g} {high + 18:g}" role="img">']
    for n, one in enumerate(hours):
        base = high + 2
        when = datetime.fromtimestamp(one["from"], zone).strftime("%m-%d %H:%M")
        for name, _ in _PARTS:
            tall = float(one[name]) / top * high
            if tall > 0:
                base -= tall
                out.append(
                    f'<rect class="{name}" x="{n * step:.2f}" y="{base:.2f}" width="{step * 0.9:.2f}" '
                    f'height="{tall:.2f}"><title>{when}: {number(one[name])} kWh</title></rect>'
                )
        if n in (0, len(hours) - 1):
            x, anchor = (0.0, "start") if n == 0 else (wide, "end")
            out.append(f'<text x="{x:g}" y="{high + 15:g}" text-anchor="{anchor}">{when}</text>')
    return "".join(out) + "</svg>"


def _balance(report: Mapping[str, Any], language: str) -> str:
    words, balance, parts = BALANCE_WORDS[language], report.get("balance"), []
    if balance is not None:
        parts.append(f"<h2>{words['balance']}</h2>")
        if text := balance_rows.site_row(balance, language):
            kind = {"within": "met", "beyond": "notmet"}.get(balance["verdict"], "")
            parts.append(f'<p class="{kind}">{escape(text)}</p>')
            worst = max(balance["trend"], key=lambda one: abs(float(one["v"] or 0)), default={"label": ""})
            shown = {"id": words["residual"], "trend": balance["trend"], "worst": {"label": worst["label"]}}
            parts.append(f'<div class="card narrow">{_bars(shown)}<div class="soft small">{words["stretches"]}: '
                         f"{escape(balance_rows.counts_row(balance, language))}</div></div>")  # fmt: skip
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


def _inputs(figures: Iterable[Mapping[str, Any]], language: str) -> str:
    words = WORDS[language]
    seen: dict[str, Sequence[str]] = {}
    for figure in figures:
        for one in figure["inputs"]:
            known = percent(one["completeness"]) if one["basis"] == "metered" else one.get("note", "")
            if one["basis"] == "declared" and "estimated" in one:
                known = words["shared"].format(percent(one["estimated"]))
            shown = (
                text_in(one["title"], language),
                one["n"],
                f"{number(one['v'], 6)} {one['u']}",
                words[one["basis"]],
            )
            seen.setdefault(one["n"], (*shown, known))
    if not seen:
        return ""
    heads = (words["inputs"], words["input"], words["amount"], words["basis"], words["known"])
    return f"<h2>{words['inputs']}</h2>{_table(heads, seen.values())}"


def _factors(figures: Iterable[Mapping[str, Any]], language: str) -> str:
    words = WORDS[language]
    seen: dict[str, Sequence[str]] = {}
    for figure in figures:
        for one in figure["factors"]:
            status = words["factor_assumed" if one["status"] == "assumed" else one["status"]]
            source = ", ".join(filter(None, (one["source"], one.get("published"))))
            seen.setdefault(one["id"], (one["id"], f"{one['v']} {one['u']}", status, source))
    if not seen:
        return ""
    heads = (words["factors"], words["value"], words["status"], words["source"])
    return f"<h2>{words['factors']}</h2>{_table(heads, [seen[name] for name in sorted(seen)])}"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    top = "".join(f"<th>{escape(text)}</th>" for text in heads)
    body = "".join("<tr>" + "".join(f"<td>{escape(text)}</td>" for text in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"
