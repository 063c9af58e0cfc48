"""`meterhouse profiles`: shows and checks the known device families and the meaning of their points."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import click

from agent.cli.common import COLON, as_line, pad, show_unit, singular
from agent.cli.options import EXISTING_FILE, json_option, lang_option, param_option, parse_params, profiles_option
from agent.cli.profile_samples import replay, samples_beside
from agent.cli.profile_template import KINDS, check_place, document, template, write_profile
from drivers.model import PACES, Limits, Point, ProfileError, UsageError, clean_text
from drivers.profile import (
    Profile,
    SecondSource,
    default_dirs,
    find_profile,
    list_profiles,
    load_profile,
    shipped_dir,
    vocabulary,
)
from drivers.profile.review import remarks

Json = dict[str, Any]
_LABELS = {
    "en": ("Point", "Unit", "Pace", "Register", "Meaning"),
    "zh": ("测点", "单位", "节拍", "寄存器", "含义"),
}
# the labels of `profiles show`
_FACTS = {
    "en": ("source", "evidence", "hash", "limits", "parameter", " (default {})", "variant", "note"),
    "zh": ("来源", "依据", "哈希", "限制", "参数", "（默认 {}）", "变体", "说明"),
}
_OVER = {"en": "{kind} over {protocol}", "zh": "{kind}，{protocol}"}
_YES_NO: dict[str, dict[Any, str]] = {"en": {}, "zh": {"yes": "是", "no": "否"}}
_NONE_STATED = {"en": "none stated", "zh": "未注明"}
_POINTS = {"en": ("points", " of variant {}"), "zh": ("测点数", "（变体 {}）")}
_SECOND_SOURCE = {
    "en": ("second source", "none", "the profile does not state whether a second source agrees"),
    "zh": ("第二来源", "无", "设备模板未说明是否有第二来源佐证"),
}

_LIST_HEADS = {
    "en": ("Profile", "Kind", "Protocol", "Points", "Evidence", "Manufacturer and models"),
    "zh": ("模板", "种类", "协议", "测点数", "依据", "厂家与型号"),
}
_EVIDENCE = {
    "en": "Evidence: derived from documents; dump: checked with recorded registers; field: checked at a device.",
    "zh": "依据：derived为依据文件，dump为用录得的寄存器核对过，field为在现场设备上核对过。",
}
_BROKEN = {"en": "broken, see below", "zh": "有误，见下"}
_SITE = {"en": "site", "zh": "本站"}
_NAME_HEADS = {"en": ("Name", "Kind", "Units", "Meaning"), "zh": ("名称", "种类", "单位", "含义")}
_WRITTEN = {
    "en": "wrote {file}. `meterhouse profiles check {quoted}` lists what is missing",
    "zh": "已写入{file}。`meterhouse profiles check {quoted}`会指出缺少什么",
}
_COPIED = {"en": "Copied from {id}, hash {hash}.", "zh": "复制自{id}，哈希{hash}。"}
_COPIED_SOURCE = {"en": "copied from {id}, edited by you. Source there: ", "zh": "复制自 {id}，由您修改。原来源："}
_COPIED_SECOND = """en = "Copied from {id}. Your changes were compared with nothing else."
zh = "复制自 {id}，您的修改未与其它来源比对。"
"""
_NEW_SAMPLES = (
    "Samples that were copied, or that were recorded before the profile was changed, may no longer fit: "
    "delete them, and record new samples with `meterhouse read --sample`"
)


@click.group()
def profiles() -> None:
    """List, show and copy profiles of device families; create and check your own.

    Site profiles in /etc/meterhouse/profiles override the shipped ones and survive upgrades.

    \b
    Examples:
      meterhouse profiles list
      meterhouse profiles show eastron/sdm630 --lang zh
      meterhouse profiles names "battery.*"
      meterhouse profiles copy eastron/sdm630
      meterhouse profiles new /etc/meterhouse/profiles/acme/x1.toml --kind meter
      meterhouse profiles check /etc/meterhouse/profiles/acme/x1.toml

    \b
    Exit codes: 0 good, 2 wrong usage, 3 a profile is wrong or missing.
    """


@profiles.command("list")
@lang_option
@profiles_option
@json_option
def list_(lang: str, dirs: tuple[Path, ...], as_json: bool) -> None:
    """List all families with id, kind, protocol, number of points, and the evidence that the profile is correct."""
    broken: list[ProfileError] = []
    rows: list[Json] = []
    for id, path in list_profiles(dirs).items():
        try:
            rows.append(_summary(load_profile(path, dirs)))
        except ProfileError as error:
            broken.append(error)
            rows.append({"id": id, "error": str(error)})
    if as_json:
        click.echo(as_line({"profiles": rows}))
    else:
        _print_list(rows, lang)
    if broken:
        from agent.config import gathered

        raise gathered(broken, "profiles")


def _print_list(rows: Sequence[Json], lang: str) -> None:
    """Print a row for each family, and an explanation of the words for evidence."""
    heads, evidence = _LIST_HEADS[lang], _EVIDENCE[lang]
    widths = (max((len(row["id"]) for row in rows), default=8) + 2, 10, 10, 8, 10, 0)
    click.echo(_row(heads, widths))
    for row in rows:
        if "error" in row:
            click.echo(_row((row["id"], _BROKEN[lang]), widths[:2]))
            continue
        own = "" if row["shipped"] else f"  ({_SITE[lang]})"
        models = f"{row['vendor']} {', '.join(row['models'])}{own}"
        click.echo(_row((row["id"], row["kind"], row["protocol"], str(row["points"]), row["evidence"], models), widths))
    click.echo(f"\n{evidence}")


def _summary(profile: Profile) -> Json:
    return {
        "id": profile.id,
        "vendor": profile.vendor,
        "models": list(profile.models),
        "kind": profile.kind,
        "protocol": profile.protocol,
        "points": len(profile.points),
        "variants": [v.name for v in profile.variants],
        "evidence": profile.evidence,
        "second_source": asdict(profile.second_source) if profile.second_source else None,
        "hash": profile.hash,
        "shipped": profile.path.is_relative_to(shipped_dir()),
        "path": str(profile.path),
    }


@profiles.command()
@click.argument("id")
@lang_option
@click.option("--firmware", help="Show the points that a device with this firmware has.")
@param_option
@profiles_option
@json_option
def show(
    id: str, lang: str, firmware: str | None, params: tuple[str, ...], dirs: tuple[Path, ...], as_json: bool
) -> None:
    """Show one family: its sources, its limits, and its points with unit, pace (how often they are read), register and
    meaning.
    """
    profile = load_profile(find_profile(id, dirs), dirs)
    resolved = profile.resolve(parse_params(params), firmware)
    points = [_point(p) for p in sorted(resolved.points, key=lambda p: (p.function, p.address))]
    if as_json:
        click.echo(as_line({**_summary(profile), **_about(profile), "variant": resolved.variant, "table": points}))
        return
    for line in _heading(profile, lang):
        click.echo(line)
    many, of_variant = _POINTS[lang]
    of = of_variant.format(resolved.variant) if resolved.variant else ""
    click.echo(f"  {pad(many, 10)}{len(points)}{of}")
    click.echo()
    name, unit, pace, register, meaning = _LABELS[lang]
    wide = max(len(p["name"]) for p in points) + 2
    widths = (wide, 8, 8, 24, 0)
    click.echo(_row((name, unit, pace, register, meaning), widths))
    for p in points:
        click.echo(_row((p["name"], show_unit(p["unit"]), p["pace"], p["register"], p[lang]), widths))


def _heading(profile: Profile, lang: str) -> Iterator[str]:
    """Yield the lines that ``show`` prints above the number of points."""
    source, evidence, hash_, limits, parameter, default_is, variant, note = _FACTS[lang]
    over = _OVER[lang].format(kind=profile.kind, protocol=profile.protocol)
    yield f"{profile.id}  {profile.vendor} {', '.join(profile.models)}  {over}"
    yield f"  {pad(source, 10)}{profile.source}"
    yield f"  {_second_source(profile.second_source, lang)}"
    yield f"  {pad(evidence, 10)}{profile.evidence}   {hash_} {profile.hash}"
    stated = [f"{name} {_YES_NO[lang].get(text, text)}" for name, text in _about(profile)["limits"].items()]
    yield f"  {pad(limits, 10)}{', '.join(stated) or _NONE_STATED[lang]}"
    for param in profile.params.values():
        default = "" if param.default is None else default_is.format(param.default)
        yield f"  {pad(parameter, 10)}{param.name}{default}  {param.zh if lang == 'zh' else param.en}"
    for one in profile.variants:
        yield f"  {pad(variant, 10)}{one.name}"
    if lang in profile.notes:
        yield f"  {pad(note, 10)}{profile.notes[lang]}"


def _second_source(second: SecondSource | None, lang: str) -> str:
    """Return a line that states whether a second, independent source agrees with the points."""
    label, none, silent = _SECOND_SOURCE[lang]
    if lang == "zh":
        return f"{label}：{second.source or none}。{second.zh}" if second else f"{label}：{silent}。"
    return f"{label}: {second.source or none}. {second.en}" if second else f"{label}: {silent}."


def _row(cells: Sequence[str], widths: Sequence[int]) -> str:
    """Return one row of a table. Each cell is padded to the width of its column on the terminal."""
    return "".join(pad(cell, width) for cell, width in zip(cells, widths, strict=True)).rstrip()


def _about(profile: Profile) -> Json:
    limits: Json = {}
    for field in Limits.__slots__:
        value = getattr(profile.limits, field)
        if isinstance(value, bool):
            limits[field] = "yes" if value else "no"
        elif value is not None:
            limits[field.removesuffix("_s")] = f"{value:g} s" if field.endswith("_s") else value
    return {
        "source": profile.source,
        "limits": limits,
        "params": {p.name: p.default for p in profile.params.values()},
        "notes": dict(profile.notes),
    }


def _point(point: Point) -> Json:
    entry = vocabulary().find(point.name)
    return {
        "name": point.name,
        "kind": point.kind.value,
        "unit": point.unit,
        "pace": point.pace,
        "register": _register(point),
        "function": point.function,
        "address": point.address,
        "type": point.type,
        "en": point.en or (entry.en if entry else ""),
        "zh": point.zh or (entry.zh if entry else ""),
    }


def _register(point: Point) -> str:
    if point.key:
        return point.key
    where = f"{point.function}:{point.address}"
    if point.parts:
        return f"{where} {len(point.parts)} parts"
    how = f"{point.type}{f'[{point.count}]' if point.type in {'str', 'mod10k'} or point.text else ''}"
    bit = "" if point.bit is None else f".{point.bit}"
    scale = "" if point.scale == 1 else f" x{point.scale.normalize():f}"
    return f"{where} {how}{bit}{scale}"


@profiles.command()
@click.argument("pattern", default="*")
@lang_option
@json_option
def names(pattern: str, lang: str, as_json: bool) -> None:
    """Show the names that a profile may use, with units and meaning. PATTERN selects names, such as "ac.energy.*".

    {l} means l1, l2 or l3; {ll} means l12, l23 or l31; other letters in braces are numbers. Prefixes such as
    "meter.", "circuit.3." or "load." may precede any name; names private to a profile begin with "x.".
    """
    entries = [e for e in vocabulary().entries() if fnmatchcase(e.pattern, pattern)]
    if not entries:
        raise UsageError(f"no point name matches {clean_text(pattern)!r}", where="profiles names", hint='Try "*power*"')
    if as_json:
        rows = [
            {"name": e.pattern, "kind": e.kind.value, "units": list(e.units), "en": e.en, "zh": e.zh} for e in entries
        ]
        click.echo(as_line({"names": rows}))
        return
    wide = max(len(e.pattern) for e in entries) + 2
    unit_width = max(5, *(len(" ".join(e.units)) for e in entries)) + 2
    click.echo(_row(_NAME_HEADS[lang], (wide, 9, unit_width, 0)))
    for e in entries:
        units = " ".join(u for u in e.units if u)
        click.echo(_row((e.pattern, e.kind.value, units, e.zh if lang == "zh" else e.en), (wide, 9, unit_width, 0)))


@profiles.command()
@click.argument("file", required=False, type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--kind", type=click.Choice(list(KINDS)), default="meter", show_default=True, help="What the device measures."
)
@click.option("--from", "listed", type=EXISTING_FILE, help="A CSV list of points, with a line of column names.")
@click.option(
    "--function",
    type=click.IntRange(1, 4),
    help="With --from: function code of the points for which the list gives no function code.",
)
@click.option(
    "--order",
    default="",
    help="With --from: byte order, such as CDAB, of the 32-bit and 64-bit values for which the list gives no byte "
    "order.",
)
@click.option(
    "--4x",
    "is_4x",
    is_flag=True,
    help="With --from: the addresses in the list are in 4x notation: the first register is 40001 or 30001.",
)
@lang_option
def new(
    file: Path | None, kind: str, listed: Path | None, function: int | None, order: str, is_4x: bool, lang: str
) -> None:
    """Create a profile: from a template for a kind of device, or from a list of points.

    FILE is VENDOR/FAMILY.toml and must not exist yet; without FILE, the profile is printed. A list needs the columns
    name, address and type, and may have unit, factor (or gain), function, order, count, offset, pace, en, zh; other
    common names of these columns are understood, English or Chinese. In the column "name", write the name of each
    point, or its meaning in English or Chinese, as `profiles names` lists them.

    \b
    Examples:
      meterhouse profiles new /etc/meterhouse/profiles/acme/x1.toml --kind meter
      meterhouse profiles new profiles/acme/x1.toml --from points.csv --function 3 --order CDAB
    """
    from agent.cli.profile_csv import ListOptions, read_list

    id_ = check_place(file) if file is not None else "vendor/family"
    vendor = id_.partition("/")[0].capitalize()
    if listed is None:
        for option, given in {"--function": function, "--order": order, "--4x": is_4x}.items():
            if given:
                raise UsageError("has no effect without --from", where=option)
        text = template(kind, vendor, lang)
    else:
        points = read_list(listed, ListOptions(function, order.upper(), is_4x))
        text = document(kind, vendor, points, lang, source=listed.name)
    if file is None:
        click.echo(text, nl=False)
        return
    write_profile(file, text)
    click.echo(_written(file, lang))


@profiles.command()
@click.argument("id")
@click.argument("file", required=False, type=click.Path(dir_okay=False, path_type=Path))
@lang_option
@profiles_option
def copy(id: str, file: Path | None, lang: str, dirs: tuple[Path, ...]) -> None:
    """Copy a profile, with its comments, to a file of your own, which you can then change.

    Without FILE, the copy is written to VENDOR/FAMILY.toml in the configured folder of profiles, where it replaces the
    shipped profile. Under another name, the copy is a separate family. The copy contains evidence = "derived" and no
    second source, because nobody has checked it yet.
    """
    source = find_profile(id, dirs)
    target = file if file is not None else next(one for one in dirs if one != shipped_dir()) / f"{id}.toml"
    check_place(target)
    own = load_profile(source, dirs)
    begin = _COPIED[lang].format(id=id, hash=own.hash)
    write_profile(target, f"# {begin}\n{_as_copy(source.read_text('utf-8'), id, lang)}")
    click.echo(_written(target, lang))


def _as_copy(text: str, id: str, lang: str) -> str:
    """Return the text of a profile for a copy.

    The fields ``evidence`` and ``second_source`` are reset, because nobody has checked the copy.
    """
    begin, second = _COPIED_SOURCE[lang].format(id=id), _COPIED_SECOND.format(id=id)
    text = re.sub(r"""^(source *= *(?:\"{3}|'{3}|"|'))""", lambda found: found[1] + begin, text, count=1, flags=re.M)
    text = re.sub(r"^evidence *=.*$", 'evidence = "derived"', text, count=1, flags=re.M)
    text = re.sub(r"^second_source *= *\{.*\}.*\n", "", text, count=1, flags=re.M)
    table = re.compile(r"^(\[second_source\].*\n)(?:\w+ *=.*\n)+", re.M)
    return table.sub(lambda found: found[1] + second, text, count=1)


@profiles.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@lang_option
@json_option
def check(file: Path, lang: str, as_json: bool) -> None:
    """Check a profile file, replay its samples, and show whether a second source agrees with it.

    The samples are in the profile file, and in the files FAMILY.json and FAMILY.*.json beside it, which `read --sample`
    writes.
    """
    profile = load_profile(file, (*file.resolve().parents[1:2], *default_dirs()))
    beside = samples_beside(file)
    failed = replay(profile, tuple(sample for _, sample in beside))
    if failed:
        from agent.config import gathered

        errors = [ProfileError(text, where=str(file)) for text in failed]
        # only the last error gets the hint, so that it is printed once, below all errors
        errors[-1].hint = _NEW_SAMPLES
        raise gathered(errors, str(file))
    odd = [zh if lang == "zh" else en for en, zh in remarks(profile)]
    for text in odd:
        click.echo(
            f"{'警告' if lang == 'zh' else 'warning'}{COLON[lang]}{clean_text(str(file), 200)}{COLON[lang]}{text}",
            err=True,
        )
    if as_json:
        click.echo(as_line({**_summary(profile), "warnings": [en for en, _ in remarks(profile)]}))
    else:
        paces = ", ".join(f"{sum(p.pace == pace for p in profile.points)} {pace}" for pace in PACES)
        points, samples = len(profile.points), len(profile.samples) + len(beside)
        if lang == "zh":
            verdict = f"正确，有 {len(odd)} 条警告" if odd else "正确"
            text = f"{verdict}。{points} 个测点（{paces}），{samples} 个样本"
        else:
            verdict = f"good, with {len(odd)} warning{'s' if len(odd) > 1 else ''}" if odd else "good"
            text = singular(f"{verdict}. {points} points ({paces}), {samples} samples")
        click.echo(f"{clean_text(str(file))}{COLON[lang]}{text}")
        click.echo(_second_source(profile.second_source, lang))


def _written(file: Path, lang: str) -> str:
    shown = clean_text(str(file), 200)
    return _WRITTEN[lang].format(file=shown, quoted=shlex.quote(shown))
