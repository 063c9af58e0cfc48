"""Where each point of a model lies, and its scale factor: for reading some points again and again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from drivers.sunspec.models import GroupDef, Model, PointDef, definition


class Place(NamedTuple):
    """One point of one model. Offsets count registers from the model's id."""

    offset: int
    point: PointDef
    power: int  # a scale factor that the definition itself gives
    scale_at: int | None  # where the device's scale factor lies


@dataclass(slots=True)
class _Scope:
    offsets: dict[str, int]
    prefix: str
    outer: _Scope | None


def layout(model: Model) -> Mapping[str, Place]:
    """Name (``W``, ``module[0].DCW``) -> place, within the length of the model. Empty for an unknown model.

    Counts of repeating groups are those that the model was read with. Raises ProfileError as ``definition``.
    """
    found = definition(model.id)
    if found is None:
        return {}
    walk = _Walk(model)
    walk.group(found, _Scope({}, "", None))
    return walk.places


class _Walk:
    def __init__(self, model: Model) -> None:
        self.model, self.at, self.end = model, 0, 2 + model.length
        self.places: dict[str, Place] = {}

    def group(self, group: GroupDef, scope: _Scope) -> bool:
        """Lay out one instance; False where the model ends within it."""
        fitting: list[tuple[PointDef, int]] = []
        for point in group.points:
            if self.at + point.size > self.end:
                break
            fitting.append((point, self.at))
            scope.offsets[point.name] = self.at
            self.at += point.size
        for point, offset in fitting:  # a factor may come after the values that need it
            if point.type not in ("pad", "sunssf"):
                place = self._place(point, offset, scope)
                if place is not None:
                    self.places[scope.prefix + point.name] = place
        if len(fitting) < len(group.points):
            return False
        return all(self._instances(inner, scope) for inner in group.groups)

    def _instances(self, group: GroupDef, scope: _Scope) -> bool:
        if group.count is None:
            return self.group(group, _Scope({}, f"{scope.prefix}{group.name}.", scope))
        most = self._count(group.count, scope) if isinstance(group.count, str) else group.count or self.end
        number = 0
        while number < most and self.at < self.end:
            before = self.at
            if not self.group(group, _Scope({}, f"{scope.prefix}{group.name}[{number}].", scope)) or self.at == before:
                return False
            number += 1
        return True

    def _count(self, name: str, scope: _Scope | None) -> int:
        while scope is not None:
            found = self.model.points.get(scope.prefix + name)
            if found is not None:
                return found.raw if isinstance(found.raw, int) else 0
            scope = scope.outer
        return 0

    @staticmethod
    def _place(point: PointDef, offset: int, scope: _Scope) -> Place | None:
        if point.scale is None or isinstance(point.scale, int):
            return Place(offset, point, point.scale or 0, None)
        around: _Scope | None = scope
        while around is not None:
            if point.scale in around.offsets:
                return Place(offset, point, 0, around.offsets[point.scale])
            around = around.outer
        return Place(offset, point, int(point.scale), None) if point.scale.lstrip("-").isdigit() else None
