"""The package's shape: imports point down, types included."""

from __future__ import annotations

import ast
import graphlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in (ROOT / "logreg_lightning").rglob("*.py")
}


class WithoutTypes(ast.NodeTransformer):
    """Drops what only a type checker imports."""

    def visit_If(self, node: ast.If) -> ast.AST | list[ast.stmt]:
        self.generic_visit(node)
        return node.orelse if ast.unparse(node.test) == "TYPE_CHECKING" else node


def imports(path: Path) -> set[str]:
    """The modules of this package that a module imports, at its top or inside its functions."""
    found: set[str] = set()
    for node in ast.walk(WithoutTypes().visit(ast.parse(path.read_text(encoding="utf-8")))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.module and not node.level, f"{path}: write imports in full"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    ours = {name for name in found if name.partition(".")[0] == "logreg_lightning"}
    return {name if name in MODULES else name.rpartition(".")[0] for name in ours}


def test_imports_form_no_circle() -> None:
    graph = {name: imports(path) for name, path in MODULES.items()}
    assert "logreg_lightning.errors" in graph["logreg_lightning.model"]
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail(" is imported by ".join(error.args[1]))
