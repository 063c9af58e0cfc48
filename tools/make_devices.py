"""Writes docs/devices.md from the shipped profiles: ``python tools/make_devices.py``. A test checks the page."""

from __future__ import annotations

import re
from pathlib import Path

from drivers.model import Point
from drivers.profile import Profile, list_profiles, load_profile, shipped_dir, vocabulary

PAGE = Path(__file__).resolve().parent.parent / "docs" / "devices.md"
HEAD = """# Devices

Generated from `firmware_profiles/` by `python tools/make_devices.py`; `meterhouse profiles show ID` has every detail.
`evidence` says what a profile was checked against: *derived* (from documents), *dump* (a recorded device), *field*.
"Second source" names a source that is independent of the first, and the result of comparing the points with it.

"""


def pattern(name: str) -> str:
    """The name of a point with n in place of each number. So all cells of a battery share one row."""
    return re.sub(r"(?<=\.)\d+(?=\.|$)", "n", name)


def meaning(point: Point) -> str:
    """The meaning of a point in both languages. It comes from the profile; if the profile has none, from the
    vocabulary.
    """
    entry = vocabulary().find(point.name)
    words = (point.en or (entry.en if entry else ""), point.zh or (entry.zh if entry else ""))
    return " / ".join(word for word in words if word)


def rows(profile: Profile) -> list[str]:
    """The rows of the page, one per point. Points whose names differ only in numbers share a row."""
    seen: dict[str, tuple[str, str, str, str, str]] = {}
    for point in profile.points:
        key = pattern(point.name)
        if key not in seen:
            seen[key] = (key, point.unit, point.kind.value, point.pace, meaning(point))
    return [f"| `{n}` | {unit} | {kind} | {pace} | {meaning} |" for n, unit, kind, pace, meaning in seen.values()]


def page() -> str:
    """The text of the whole page."""
    profiles = [load_profile(path) for path in list_profiles([shipped_dir()]).values()]
    out = [HEAD, "| family | kind | protocol | evidence | points |\n|---|---|---|---|---|\n"]
    for p in profiles:
        anchor = re.sub(r"[^a-z0-9-]", "", p.id)
        out.append(f"| [{p.id}](#{anchor}) | {p.kind} | {p.protocol} | {p.evidence} | {len(p.points)} |\n")
    for p in profiles:
        out.append(f"\n## {p.id}\n\n{p.vendor}: {', '.join(p.models)}. Source: {p.source}. Evidence: {p.evidence}.\n")
        if second := p.second_source:
            out.append(f"Second source: {second.source or 'none'}. {second.en}\n")
        if note := p.notes.get("en"):
            out.append(f"\n{' '.join(note.split())}\n")
        out.append("\n| point | unit | kind | pace | meaning |\n|---|---|---|---|---|\n" + "\n".join(rows(p)) + "\n")
    return "".join(out)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
