"""What the documents name exists, the tutorial shows the code as it is, and imports go the way that they describe."""

from __future__ import annotations

import ast
import functools
import graphlib
import importlib
import re
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", ROOT / "lightning_logs" / "README.md"]
PAGES += sorted((ROOT / "docs").glob("*.md"))
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in (ROOT / "logreg_lightning").rglob("*.py")
}
COMMANDS = ("fit", "sweep", "evaluate", "predict", "export")

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())


def read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def anchors(page: Path) -> set[str]:
    """What a link may name behind `#`: each heading of the page, as GitHub writes it."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```$", "", read(page), flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@each_page
def test_links_lead_somewhere(page: Path) -> None:
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", read(page)):
        there = (page.parent / target).resolve() if target else page
        assert there.exists(), target
        assert not anchor or anchor in anchors(there), f"{target}#{anchor}"


@functools.cache
def flags(command: str) -> set[str]:
    """Every flag that the command's help lists, with the prefix of its group."""
    script = read(ROOT / "scripts" / f"{command}.py")
    [module] = re.findall(r"^from (\S+) import main", script, re.M)
    return set(re.findall(r"--[\w.]+", importlib.import_module(module).build_parser().format_help()))


@each_page
def test_commands_and_flags_exist(page: Path) -> None:
    commands = r"(?:scripts[/\\]|logreg-lightning |-m logreg_lightning )(%s)\b(?:\.py)?((?: [^`\n#>]*)?)"
    for command, rest in re.findall(commands % "|".join(COMMANDS), read(page)):
        named = set(re.findall(r"(?<!\S)--[\w.]+", rest)) - {"--no_such_flag"}  # whose refusal is timed
        assert named <= flags(command), rest
    for script in re.findall(r"\bscripts/(\w+\.py)", read(page)):
        assert (ROOT / "scripts" / script).is_file(), script
    alone = set(re.findall(r"`(--(?:data|model)\.\w+|--(?:max|num|val)_\w+)", read(page)))
    assert alone <= set.union(*map(flags, COMMANDS))


@each_page
def test_make_targets_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", read(ROOT / "Makefile"), re.M))
    assert set(re.findall(r"(?:^ *|`)make ([a-z]+)", read(page), re.M)) <= targets


def test_the_readme_is_short() -> None:
    assert len(read(README).splitlines()) <= 150


# The link to a file, alone on its line, and below it code that stands there.
SHOWN = re.compile(
    r"^\[(?P<name>logreg_lightning/[\w./]+)\]\(\.\./(?P=name)\)\n\n```python\n(?P<code>.*?)^```$", re.M | re.S
)
TUTORIAL = ROOT / "docs" / "tutorial.md"


@pytest.mark.parametrize("shown", list(SHOWN.finditer(read(TUTORIAL))), ids=lambda shown: shown["name"])
def test_the_tutorial_shows_code_that_stands_in_its_file(shown: re.Match[str]) -> None:
    code, lines = shown["code"].splitlines(), read(ROOT / shown["name"]).splitlines()
    windows = ("\n".join(lines[first : first + len(code)]) for first in range(len(lines)))
    assert code in [textwrap.dedent(window).splitlines() for window in windows]


def test_the_tutorial_shows_code_for_each_of_the_seven_steps() -> None:
    sections = re.split(r"^## ", read(TUTORIAL), flags=re.M)
    assert [section.partition(".")[0] for section in sections if SHOWN.search(section)] == list("1234567")


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


def test_runtime_imports_nothing_of_the_core() -> None:
    allowed = {"logreg_lightning.errors", *(name for name in MODULES if name.startswith("logreg_lightning.runtime"))}
    arrows = {name: imports(path) - allowed for name, path in MODULES.items() if name in allowed}
    assert {name: up for name, up in arrows.items() if up} == {}


def test_imports_form_no_circle() -> None:
    graph = {name: imports(path) for name, path in MODULES.items()}
    assert {"logreg_lightning.runtime.steps", "logreg_lightning.errors"} <= graph["logreg_lightning.model"]
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail(" is imported by ".join(error.args[1]))
