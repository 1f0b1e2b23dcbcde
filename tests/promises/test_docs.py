"""What the documents name exists, their programs run, and the tutorial shows the code as it is."""

from __future__ import annotations

import functools
import importlib
import re
import shutil
import textwrap
from pathlib import Path

import pytest
from conftest import fit

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", ROOT / "lightning_logs" / "README.md"]
PAGES += sorted((ROOT / "docs").glob("*.md"))
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
    assert f'run("{command}")' in script
    module = f"logreg_lightning.{'' if command in ('fit', 'sweep') else 'use.'}{command}"
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


@pytest.mark.parametrize(("page", "most"), [(README, 150), (ROOT / "docs" / "design.md", 250)])
def test_these_are_short(page: Path, most: int) -> None:
    assert len(read(page).splitlines()) <= most


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


PROGRAMS = [
    (page, number, code)
    for page in (README, ROOT / "docs" / "python.md")
    for number, code in enumerate(re.findall(r"^```python\n(.*?)^```$", read(page), re.M | re.S))
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("page", "number", "code"), PROGRAMS, ids=[f"{page.name}-{number}" for page, number, _ in PROGRAMS]
)
def test_programs_run(workdir: Path, page: Path, number: int, code: str) -> None:
    shutil.copytree(ROOT / "docs" / "pictures", "docs/pictures")
    if "load(" in code and "fit(" not in code:
        fit("--data.dataset=mnist", "--max_steps=1")
        for name in ("my.png", "other.png"):
            shutil.copy("docs/pictures/my.png", name)
    exec(compile(code, f"{page.name}, program {number}", "exec"), {})
