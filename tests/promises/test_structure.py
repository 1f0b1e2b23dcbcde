"""The package's shape: imports point down, types included; `python tests/promises/test_structure.py` draws it."""

from __future__ import annotations

import ast
import graphlib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = "logreg_lightning"
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted((ROOT / PACKAGE).rglob("*.py"))
}
LAYERS = 8


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


GRAPH = {
    name: imports(path) for name, path in MODULES.items() if path.name != "__init__.py" or PACKAGE + ".use" in name
}
GRAPH = {name: {other for other in below if other in GRAPH} for name, below in GRAPH.items()}


def layers() -> Iterator[list[str]]:
    """The modules from the lowest layer up: each imports only what lies below it.

    Raises:
        graphlib.CycleError: there is a circle.
    """
    sorter = graphlib.TopologicalSorter(GRAPH)
    sorter.prepare()
    while sorter.is_active():
        layer = sorter.get_ready()
        yield sorted(layer)
        sorter.done(*layer)


def test_imports_form_no_circle_and_few_layers() -> None:
    try:
        drawn = list(layers())
    except graphlib.CycleError as error:
        pytest.fail(" is imported by ".join(error.args[1]))
    assert len(drawn) <= LAYERS, "\n".join(", ".join(layer) for layer in drawn)


def test_runtime_knows_nothing_of_logistic_regression() -> None:
    below = {f"{PACKAGE}.errors"} | {name for name in GRAPH if name.startswith(f"{PACKAGE}.runtime.")}
    assert {name: GRAPH[name] - below for name in below if GRAPH[name] - below} == {}


@pytest.mark.parametrize(
    ("folder", "may_import"),
    [
        ("data", {"errors", "runtime", "data"}),
        ("features", {"errors", "runtime", "data", "features"}),
    ],
)
def test_an_image_goes_one_way(folder: str, may_import: set[str]) -> None:
    """From file to pixels or features; who trains on them is above."""
    arrows = {
        (name, other)
        for name in GRAPH
        if name.startswith(f"{PACKAGE}.{folder}.")
        for other in GRAPH[name]
        if other.split(".")[1] not in may_import
    }
    assert arrows == set()


if __name__ == "__main__":
    for number, layer in enumerate(layers(), 1):
        print(number, ", ".join(name.removeprefix(f"{PACKAGE}.") for name in layer))
