"""Names in figures: as text, of a length that fits, in fonts that have their letters."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Sequence
from typing import Any

from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.text import Text

from logreg_lightning.runtime.names import printable, shortened

LONGEST = 16
"""Letters of a name in a figure; of a longer one the middle is left out."""

_NOT_FOR_TEXT = ("Last Resort", "cm", "STIXNon", "STIXSize")
"""Fonts that have every letter as a box, or symbols in place of letters."""


def labels(names: Sequence[str]) -> list[str]:
    """A text for each class that tells it from the others: its name, or `#` and its number where no font has its
    letters, or it is blank, or another class's name looks the same once it is shortened."""
    shown = [shortened(printable(name), LONGEST).strip() for name in names]
    count = Counter(shown)
    return [
        as_text(text) if text and count[text] == 1 and _fonts(text) is not None else f"#{number}"
        for number, text in enumerate(shown)
    ]


def as_text(text: str) -> str:
    """What matplotlib draws as that text: between two dollars it would read a formula."""
    return text.replace("$", r"\$")


class Drawing(Figure):
    """A figure whose texts are each drawn in fonts that have their letters."""

    def draw(self, renderer: Any) -> None:
        for text in self.findobj(Text):
            fonts = _fonts(text.get_text())
            if fonts and fonts[-1] not in text.get_fontfamily():
                text.set_fontfamily([*text.get_fontfamily(), *fonts])
        super().draw(renderer)


def _fonts(text: str) -> tuple[str, ...] | None:
    """Families of fonts that have the letters of a text which the usual one lacks; None where there are none."""
    return _fonts_of(frozenset(text) - {"\n"})


@functools.cache
def _fonts_of(letters: frozenset[str]) -> tuple[str, ...] | None:
    lacking = _lacking(letters, font_manager.findfont(font_manager.FontProperties()))
    found: list[str] = []
    while lacking:
        best = min(_candidates(), key=lambda font: len(_lacking(lacking, font.fname)), default=None)
        left = lacking if best is None else _lacking(lacking, best.fname)
        if best is None or left == lacking:
            return None
        found.append(best.name)
        lacking = left
    return tuple(found)


@functools.cache
def _candidates() -> list[Any]:
    """Upright fonts of the usual weight, one of a family, those without serifs first."""
    fonts = {
        font.name: font
        for font in font_manager.fontManager.ttflist
        if font.style == "normal"
        and font.weight in (400, "normal", "regular")
        and not font.name.startswith(_NOT_FOR_TEXT)
    }
    return sorted(fonts.values(), key=lambda font: ("Sans" not in font.name, font.name))


@functools.cache
def _letters_of(file: str) -> frozenset[int]:
    try:
        return frozenset(font_manager.get_font(file).get_charmap())
    except (OSError, RuntimeError):  # gone since matplotlib noted it, or damaged
        return frozenset()


def _lacking(letters: frozenset[str], file: str) -> frozenset[str]:
    known = _letters_of(file)
    return frozenset(letter for letter in letters if ord(letter) not in known)
