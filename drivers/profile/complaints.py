"""Collects complaints about a profile, with file, line and key, and raises them all in one error."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from drivers.model import ProfileError
from drivers.toml import Complaints, KeyPath, Layer, TomlSource, TomlTable


class ProfileComplaints(Complaints):
    """All complaints about one profile file."""

    source: TomlSource  # the file; set when it has been read

    def at(self, path: KeyPath, what: str, hint: str = "") -> None:
        """Record a complaint about the key at ``path``. ``what`` tells what is wrong."""
        self.add(self.source, path, "", what, hint)

    def table(self, raw: Mapping[str, Any], path: KeyPath = (), name: str = "") -> TomlTable:
        """A table of this file, to be read key by key. ``name`` is the table's name in complaints."""
        return TomlTable(name, [Layer(self.source, path, dict(raw))], self, joiner=": ")

    def check(self) -> None:
        """If there are complaints, raise one ProfileError with all of them, in the order of the file.

        Equal complaints, as from the points of a repeat, are reported once.
        """
        if not self.items:
            return
        unique = {(one.where, one.what): one for one in reversed(self.items)}
        ordered = sorted(reversed(unique.values()), key=lambda one: one.line or 0)
        errors = tuple(ProfileError(one.what, where=one.where, hint=one.hint) for one in ordered)
        first = errors[0]
        if len(errors) == 1:
            raise first
        rest = "".join(f"\n{error}" for error in errors[1:])
        if first.hint:
            raise ProfileError(first.what, where=first.where, hint=first.hint + rest, complaints=errors)
        raise ProfileError(first.what + rest, where=first.where, complaints=errors)
