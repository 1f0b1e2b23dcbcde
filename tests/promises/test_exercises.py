"""The tutorial's three exercises in code, as they stand there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "tutorial.md"
EXERCISES = re.findall(
    r"^### ([^\n]*)\n.*?^```python\n(.*?)^```$",
    PAGE.read_text(encoding="utf-8").partition("<!-- exercises -->")[2],
    re.M | re.S,
)


def test_there_are_three() -> None:
    assert [name for name, _ in EXERCISES] == ["Another optimiser", "A hidden layer", "A model of your own"]


@pytest.mark.parametrize(("name", "code"), EXERCISES, ids=[name for name, _ in EXERCISES])
def test_each_learns_the_digits_of_scikit_learn(workdir: Path, name: str, code: str) -> None:
    ran: dict[str, Any] = {}
    on_digits = code.replace('"mnist"', '"digits"').replace("784", "64").replace("max_epochs=3", "max_epochs=10")
    exec(compile(on_digits, name, "exec"), ran)
    metrics = ran["trainer"].callback_metrics
    assert float(metrics.get("test/accuracy", metrics.get("val/accuracy"))) > 0.85  # guessing has 0.1
