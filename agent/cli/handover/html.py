"""Writes the record of commissioning as one HTML file for A4, without scripts and external resources."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from html import escape
from typing import Any, Final
from zoneinfo import ZoneInfo

from agent.cli.common import SEMICOLON, singular
from agent.cli.handover.labels import WORDS, display_text, verdict
from agent.cli.main_points import known_as
from agent.cli.qr import svg_qr

_STYLE: Final = """
@page{size:A4;margin:14mm}
:root{--ink:#1b2a33;--soft:#5d6f7a;--line:#c5d0d6;--bad:#b3362b;--good:#1c7c4a}
*{box-sizing:border-box}body{margin:0 auto;max-width:190mm;padding:6mm;background:#fff;color:var(--ink);
font:13px/1.45 system-ui,"Noto Sans CJK SC","Microsoft YaHei",sans-serif}
h1{font-size:1.6rem;margin:0 0 .2rem}.top{display:flex;justify-content:space-between;gap:6mm}
.qr{width:34mm;flex:none;font-size:.7rem;color:var(--soft);overflow-wrap:anywhere}
.qr svg{width:34mm;height:34mm;display:block}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.1rem .8rem;margin:.4rem 0}dt{color:var(--soft)}
dd{margin:0;overflow-wrap:anywhere}
table{border-collapse:collapse;width:100%;font-size:.85rem;margin:1rem 0 .4rem}thead{display:table-header-group}
tr{break-inside:avoid}
th,td{text-align:left;vertical-align:top;padding:.25rem .5rem .25rem 0;border-bottom:1px solid var(--line)}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}.soft{color:var(--soft);font-size:.85em}
.agrees{color:var(--good)}.differs,.silent,.dead{color:var(--bad);font-weight:700}
.hash{font-family:ui-monospace,monospace;font-size:.8rem;overflow-wrap:anywhere}
.hands{display:grid;grid-template-columns:1fr 1fr;gap:12mm;margin-top:12mm;break-inside:avoid}
.hands div{border-top:1px solid var(--ink);padding-top:.2rem;margin-top:14mm}
@media print{body{padding:0;max-width:none}}
"""


def page(record: Mapping[str, Any], language: str) -> str:
    """Return the HTML of the whole page. ``record``: the object that ``handover --json`` prints."""
    words, zone = WORDS[language], ZoneInfo(record["timezone"])
    title = f"{words['title']} {record['site']}/{record['gateway']}"
    by = record["by"].get("login") or f"uid {record['by']['uid']}"
    facts = [
        (words["site"], " · ".join(filter(None, (record["site"], record["label"])))),
        (words["gateway"], record["gateway"]),
        (words["recorded"], f"{_time(record['time'], zone)} ({record['timezone']})"),
        (words["by"], f"{record['who']} ({words['login']} {by})"),
        (words["version"], f"meterhouse {record['version']}"),
        (words["configuration"], record["config"]),
        (words["thumbprint"], record["thumbprint"]),
    ]
    if record["remarks"]:
        facts.append((words["remarks"], record["remarks"]))
    listed = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in facts)
    packs = "".join(f'<li class="hash">{escape(words["pack"].format(**pack))}</li>' for pack in record["packs"])
    names = ("device", "place", "identity", "reading", "display", "difference", "verdict")
    heads = "".join(
        f'<th class="n">{words[name]}</th>'
        if name in ("reading", "display", "difference")
        else f"<th>{words[name]}</th>"
        for name in names
    )
    rows = "".join(_row(entry, words, zone, language) for entry in record["devices"])
    summary = singular(words["summary"].format(devices=len(record["devices"]), **record["counts"]))
    hands = "".join(
        f"<div>{words[name]}<br><span class='soft'>{words['date']}</span></div>" for name in ("hands", "takes")
    )
    return (
        f'<!doctype html><html lang="{language}"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width,initial-scale=1"><style>{_STYLE}</style></head><body>'
        f'<div class="top"><div><h1>{escape(words["title"])}</h1><dl>{listed}</dl></div>'
        f'<div class="qr">{svg_qr(record["trust"])}{escape(words["code"].format(trust=record["trust"]))}</div></div>'
        f"<table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>"
        f'<p>{escape(summary)} <span class="soft">{escape(words["rule"])}</span></p>'
        f"<p>{escape(words['signed'].format(id=record['id']))}</p><ul>{packs}</ul>"
        f'<p class="soft">{escape(words["check"].format(trust=record["trust"]))}</p>'
        f'<div class="hands">{hands}</div></body></html>\n'
    )


def _row(entry: Mapping[str, Any], words: Mapping[str, str], zone: ZoneInfo, language: str) -> str:
    reading, result = entry.get("reading"), verdict(entry)
    known = known_as(entry["identity"], language)
    state = words.get(entry["state"], entry["state"])
    shown = ""
    if reading:
        quality = f", {words['quality']} {reading['q']}" if "q" in reading else ""
        shown = (
            f"{escape(reading['v'])} {escape(reading['u'])}"
            f'<br><span class="soft">{escape(reading["n"])}, {_time(reading["t"], zone)}{escape(quality)}</span>'
        )
    unit = reading["u"] if reading else ""
    display = f"{escape(display_text(entry))} {escape(unit)}" if "display" in entry else "–"
    remark = f'<br><span class="soft">{escape(entry["remark"])}</span>' if "remark" in entry else ""
    label = f'<br><span class="soft">{escape(entry["label"])}</span>' if "label" in entry else ""
    return (
        f"<tr><td><b>{escape(entry['device'])}</b>{label}</td>"
        f"<td>{escape(entry['line'])}, {escape(entry['address'])}<br>"
        f'<span class="soft">{escape(entry["url"])}</span></td>'
        f'<td>{escape(known)}{"<br>" if known else ""}<span class="soft">{escape(entry["profile"])}'
        f'{SEMICOLON[language]}</span><span class="{escape(entry["state"])} soft">{escape(state)}</span>'
        f"{_installed(entry, words, language)}</td>"
        f'<td class="n">{shown or "–"}</td><td class="n">{display}</td>'
        f'<td class="n">{escape(entry.get("difference", "–"))}</td>'
        f'<td><span class="{result}">{words[result]}</span>{remark}</td></tr>'
    )


def _installed(entry: Mapping[str, Any], words: Mapping[str, str], language: str) -> str:
    """Return the configured roles and transformer ratios as HTML; "" if there are none."""
    parts = [f"{words['roles']} {', '.join(entry['roles'].values())}"] if entry.get("roles") else []
    parts += [f"{words['ratio']} {name} {value}" for name, value in entry.get("ratio", {}).items() if value != "1"]
    return f'<br><span class="soft">{escape(SEMICOLON[language].join(parts))}</span>' if parts else ""


def _time(seconds: float, zone: ZoneInfo) -> str:
    return datetime.fromtimestamp(seconds, zone).strftime("%Y-%m-%d %H:%M:%S")
