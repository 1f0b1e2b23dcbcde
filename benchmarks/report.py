"""Figures as tables in Markdown, and tables in their places in a page."""

import statistics
from collections.abc import Sequence

from benchmarks.measure import Figures

END = "<!-- /benchmark -->\n"


def median(runs: list[Figures], name: str) -> float:
    return statistics.median(figures[name] for figures in runs)


def mean(runs: list[Figures], name: str) -> float:
    return statistics.mean(figures[name] for figures in runs)


def digits(value: float) -> str:
    """Its first three digits: 3,210 rather than 3.21e+03."""
    return f"{float(f'{value:.3g}'):,g}"


def spread(runs: list[Figures], name: str, unit: str = "s") -> tuple[str, str]:
    """The median of a figure, and its smallest and largest value."""
    values = [figures[name] for figures in runs]
    return f"{digits(statistics.median(values))} {unit}", f"{digits(min(values))} to {digits(max(values))}"


def section(title: str, *parts: str) -> str:
    return "\n\n".join([f"### {title}", *parts])


def rows(columns: Sequence[str], *cells: Sequence[str]) -> str:
    head, *lines = (f"| {' | '.join(line)} |" for line in (columns, *cells))
    return "\n".join([head, "|---" * len(columns) + "|", *lines])


def timings(*measured: tuple[str, list[Figures], *tuple[str, ...]]) -> str:
    """A row each: its label, what was measured, the figure's name, and its unit where that is not seconds."""
    return rows(("what", "median", "from, to"), *((label, *spread(runs, *rest)) for label, runs, *rest in measured))


def ratios(*measured: tuple[str, float, str, *tuple[int, ...]]) -> str:
    """A row each: its label, its value, what is required, and the decimal places where they are not two."""
    cells = ((label, f"**{value:.{(*places, 2)[0]}f}**", bound) for label, value, bound, *places in measured)
    return rows(("ratio", "measured", "required"), *cells)


def begin(name: str | None = None) -> str:
    """The line before a page's tables, or before the table of that name where it has a place of its own."""
    return f"<!-- {name or 'benchmark'}: written by benchmarks/run.py --write -->\n"


def paste(page: str, heading: str, tables: dict[str, str]) -> str:
    """The page with each table in its own place; those that have none go to the common one, all together."""
    places = {begin(name): table for name, table in tables.items() if begin(name) in page}
    common = "\n\n".join(table for name, table in tables.items() if begin(name) not in places)
    for line, text in {**places, begin(): common}.items():
        if text:
            before, _, rest = page.partition(line)
            page = f"{before}{line}{heading}\n\n{text}\n{END}{rest.partition(END)[2]}"
    return page
