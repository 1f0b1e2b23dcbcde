"""Any name that a file system allows, as it is shown: on one line, of a length and width that fit."""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from collections.abc import Iterable

# Control characters, ends of lines, what turns the direction of the text after it, and halves of characters, which is
# how Python reads a byte of a file's name that is no UTF-8.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(name: str) -> str:
    """The name, of a file say, on one line: `a\\nb` with a backslash and an n, `caf\\xe9` where a byte is no UTF-8."""

    def escaped(match: re.Match[str]) -> str:
        number = ord(match[0])
        return f"\\x{number - 0xDC00:02x}" if 0xDC80 <= number < 0xDD00 else ascii(match[0])[1:-1]

    return _UNPRINTABLE.sub(escaped, name)


def shortened(text: str, most: int) -> str:
    """The text, or its beginning and its end with an ellipsis between them: so many characters at most."""
    if len(text) <= most:
        return text
    end = (most - 1) // 2
    return f"{text[: most - 1 - end]}…{text[len(text) - end :]}"


def width(text: str) -> int:
    """Columns of a terminal that a text takes: Chinese letters and emoji two, what is written over others none."""
    return sum(
        0
        if unicodedata.category(letter) in ("Mn", "Me", "Cf")
        else 2
        if unicodedata.east_asian_width(letter) in "WF"
        else 1
        for letter in text
    )


def padded(text: str, columns: int) -> str:
    """The text with spaces behind it, so many columns wide."""
    return text + " " * (columns - width(text))


def csv_line(cells: Iterable[object]) -> str:
    """A line of CSV in UTF-8, where a byte of a name that is none is escaped."""
    line = io.StringIO(newline="")
    csv.writer(line).writerow(cells)  # with "\n" as its end, Python before 3.13 would not quote a "\r" in a name
    return line.getvalue().removesuffix("\r\n").encode(errors="backslashreplace").decode() + "\n"
