"""The package's shape: imports point down, types included; `python tests/promises/test_structure.py` draws it."""

from __future__ import annotations

import ast
import graphlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = "logreg_lightning"
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted((ROOT / PACKAGE).rglob("*.py"))
}
LAYERS = (
    ("errors",),
    ("runtime",),
    ("data",),
    ("features",),
    tuple(
        f"training.{name}"
        for name in ("metrics", "standardize", "optimum", "initialize", "hyperparameters", "validation")
    )
    + tuple(f"use.{name}" for name in ("classifier", "page", "advice", "labels")),
    ("model", "datamodule"),
    (
        "cli",
        "training.heads",
        "training.experiment",
        *tuple(f"use.{name}" for name in ("by_class", "evaluate", "predict", "export", "figures")),
    ),
    ("fit", "sweep", "__main__"),
)
"""From the lowest up, each a few rooms: a module imports what lies in its own layer or below."""


def imports(path: Path) -> set[str]:
    """The modules of this package that a module imports: at its top, inside its functions, for types alone."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.module and not node.level, f"{path}: write imports in full"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    ours = {name for name in names if name.partition(".")[0] == PACKAGE}
    return {name if name in MODULES else name.rpartition(".")[0] for name in ours}


def short(name: str) -> str:
    return name.removeprefix(f"{PACKAGE}.")


GRAPH = {short(name): {short(other) for other in imports(path)} for name, path in MODULES.items() if name != PACKAGE}
FOLDERS = {name for name in GRAPH if any(other.startswith(f"{name}.") for other in GRAPH)}
GRAPH = {name: below - {PACKAGE, *FOLDERS} for name, below in GRAPH.items() if name not in FOLDERS}


def layer_of(name: str) -> int:
    """The number of a module's layer, from 0 up."""
    return next(k for k, rooms in enumerate(LAYERS) if any(f"{name}.".startswith(f"{room}.") for room in rooms))


def test_imports_form_no_circle() -> None:
    try:
        graphlib.TopologicalSorter(GRAPH).prepare()
    except graphlib.CycleError as error:
        pytest.fail(" is imported by ".join(error.args[1]))


def test_imports_point_down_through_eight_layers() -> None:
    up = [(name, other) for name, below in GRAPH.items() for other in below if layer_of(other) > layer_of(name)]
    assert up == [] and len(LAYERS) <= 8


if __name__ == "__main__":
    for number in reversed(range(len(LAYERS))):
        print(number + 1, ", ".join(sorted(name for name in GRAPH if layer_of(name) == number)))
    for name, below in sorted(GRAPH.items(), key=lambda arrow: (-layer_of(arrow[0]), arrow[0])):
        print(f"  {name} -> {', '.join(sorted(below))}")
