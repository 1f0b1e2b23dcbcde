"""The pages in docs/ show the code as it is."""

from __future__ import annotations

import re
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs").glob("*.md"))

# A reference is a link to lines of a file together with the code that stands there: below the link to several lines a
# block of them, dedented; behind the link to one line, in backticks, a part of it. The code stands there and nowhere
# else in the file, so `python tests/promises/test_docs.py` can correct the numbers when it moves.
BLOCK = re.compile(
    r"^\[(?P<name>[\w./]+), lines (?P<first>\d+)-(?P<last>\d+)\]\(\.\./(?P<file>[\w./]+)#L(?P=first)-L(?P=last)\)"
    r"\n\n?```python\n(?P<code>.*?)^```$",
    re.M | re.S,
)
LINE = re.compile(r"\[(?P<name>[\w./]+):(?P<first>\d+)\]\(\.\./(?P<file>[\w./]+)#L(?P=first)\) `(?P<code>[^`\n]+)`")


def read(page: str) -> str:
    return (ROOT / "docs" / page).read_text(encoding="utf-8")


def places(reference: re.Match[str], root: Path) -> list[int]:
    """The numbers of the lines at which the code starts in its file."""
    file = root / reference["file"]
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    if reference.re is LINE:
        return [number for number, line in enumerate(lines, 1) if reference["code"] in line]
    shown = reference["code"].splitlines()
    windows = ("\n".join(lines[start : start + len(shown)]) for start in range(len(lines) - len(shown) + 1))
    return [number for number, window in enumerate(windows, 1) if textwrap.dedent(window).splitlines() == shown]


def link(reference: re.Match[str], first: int) -> str:
    """The reference's link if its code starts at line `first`."""
    name, file, last = reference["name"], reference["file"], first + reference["code"].count("\n") - 1
    if reference.re is LINE:
        return f"[{name}:{first}](../{file}#L{first})"
    return f"[{name}, lines {first}-{last}](../{file}#L{first}-L{last})"


def repaired(page: str, root: Path = ROOT) -> str:
    """The page with correct line numbers wherever the code is unchanged; the code itself is left as it is."""

    def renumber(reference: re.Match[str]) -> str:
        found = places(reference, root)
        return link(reference, found[0]) + reference[0].partition(")")[2] if len(found) == 1 else reference[0]

    return LINE.sub(renumber, BLOCK.sub(renumber, page))


def faults(page: str, root: Path = ROOT) -> list[str]:
    """A sentence for each reference that is not true, and for each link to a line that shows no code."""
    found = []
    for reference in (*BLOCK.finditer(page), *LINE.finditer(page)):
        there, where = places(reference, root), reference[0].partition("]")[0] + "]"
        if not reference["file"].endswith(reference["name"]):
            found.append(f"{where} links to another file, {reference['file']}")
        if len(there) != 1:
            found.append(f"{where} shows code that the file has {len(there)} times: read the text again, show its code")
        elif not reference[0].startswith(link(reference, there[0])):
            found.append(f"{where} shows code that is at line {there[0]}: run python tests/promises/test_docs.py")
    bare = LINE.sub("", BLOCK.sub("", page)).splitlines()
    return found + [f"a link to a line without its code: {line}" for line in bare if "#L" in line]


@pytest.mark.parametrize("page", ["tutorial.md"])
def test_code_stands_where_a_page_shows_it(page: str) -> None:
    assert faults(read(page)) == []


@pytest.mark.parametrize("page", [path.name for path in PAGES])
def test_links_lead_to_files(page: str) -> None:
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", read(page))
    assert [target for target in targets if not (ROOT / "docs" / target).exists()] == []


def test_tutorial_shows_code_for_each_of_the_seven_steps() -> None:
    sections = re.split(r"^## ", read("tutorial.md"), flags=re.M)
    steps = [section.partition(".")[0] for section in sections if BLOCK.search(section)]
    assert steps == ["1", "2", "3", "4", "5", "6", "7"]


SHOWN = """\
[code.py, lines 1-2](../code.py#L1-L2)

```python
first = 1
second = 2
```

and [code.py:1](../code.py#L1) `first =`.
"""


def test_line_numbers_follow_code_that_moved(tmp_path: Path) -> None:
    (tmp_path / "code.py").write_text("import this\n\nif this:\n    first = 1\n    second = 2\n", encoding="utf-8")
    assert len(faults(SHOWN, tmp_path)) == 2
    page = repaired(SHOWN, tmp_path)
    assert faults(page, tmp_path) == []
    assert page.replace("lines 4-5", "lines 1-2").replace("L4-L5", "L1-L2").replace("4", "1") == SHOWN


@pytest.mark.parametrize("code", ["first = 1\nthird = 3\n", 2 * "first = 1\nsecond = 2\n", ""])
def test_code_that_changed_is_left_to_a_person(tmp_path: Path, code: str) -> None:
    (tmp_path / "code.py").write_text(f"\n{code}", encoding="utf-8")
    assert faults(SHOWN, tmp_path)
    assert repaired(SHOWN, tmp_path).startswith(SHOWN.partition("and")[0])


@pytest.mark.parametrize(
    "page", ["[code.py:1](../code.py#L1)", "[other.py:1](../code.py#L1) `first`", "(../code.py#L1)"]
)
def test_a_link_must_show_the_code_it_leads_to(tmp_path: Path, page: str) -> None:
    (tmp_path / "code.py").write_text("first = 1\n", encoding="utf-8")
    assert len(faults(page, tmp_path)) == 1


if __name__ == "__main__":
    left = []
    for path in [ROOT / "docs" / "tutorial.md"]:
        page = repaired(path.read_text(encoding="utf-8"))
        path.write_text(page, encoding="utf-8")
        left += [f"{path.name}: {fault}" for fault in faults(page)]
    sys.exit("\n".join(left) or None)
