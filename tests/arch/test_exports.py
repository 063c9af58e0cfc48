"""A package exports only names that it has: ruff does not check this in an ``__init__.py``."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def bound(tree: ast.Module) -> set[str]:
    """Names that a module's statements bind, those of a branch included."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    return names


def exported(tree: ast.Module) -> list[str]:
    return [
        name
        for node in tree.body
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets)
        for name in ast.literal_eval(node.value)
    ]


def test_every_exported_name_exists() -> None:
    wrong: list[str] = []
    packages = 0
    for folder in ("agent", "drivers", "tests"):
        for path in (ROOT / folder).rglob("__init__.py"):
            tree = ast.parse(path.read_text("utf-8"))
            names = exported(tree)
            packages += bool(names)
            known = bound(tree) | {module.stem for module in path.parent.glob("*.py")}
            lazy = "__getattr__" in known  # agent.verify imports what is asked for
            wrong += [f"{path.relative_to(ROOT)}: {name}" for name in names if name not in known and not lazy]
    assert packages > 5 and not wrong, wrong
