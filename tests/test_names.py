"""Any name that a file system allows, as class, picture, data set or run, goes through every command as it is."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import onnx
import PIL.Image
import pytest
import torch
import yaml
from conftest import Capsys, config_of, events_of, fit, newest, refused, results_of, run_script, said_by

from logreg_lightning import load
from logreg_lightning.fit import main
from logreg_lightning.model import LogisticRegression
from logreg_lightning.runtime.names import csv_line, padded, printable, shortened, width
from logreg_lightning.runtime.processes import quoted
from logreg_lightning.sweep import main as sweep
from logreg_lightning.use import evaluate, export, figures, predict
from logreg_lightning.use.labels import _fonts_of, labels

NOT_UTF8 = os.fsdecode(b"caf\xe9")
NAMES: dict[str, tuple[str, ...]] = {
    "formulas": ("$5$", "$\\frac$", "a$b$c_{", "US$1 & $2", "`x`", "%s %d {0} {names}"),
    "lines": ("a\nb", "c\td", " e ", 'f,"g"', "\x1b[31mred", "g\r", "\u202eh"),
    "scripts": ("猫", "😀", "👩‍👩‍👧", "é", "e\u0301", "עברית", "Ж"),
    "html": ("<script>alert(1)<_script>", "&amp;", "__proto__", "constructor", "'", "</p>".replace("/", "_")),
    "long": tuple(letter * 200 for letter in "abcd"),
    "alike": tuple("x" * 150 + str(number) + "y" * 50 for number in range(4)),
    "numbers": ("yes", "1e3", "null", "0x1F", "~", "-1", "=1+1", "nan"),
    "bytes": (NOT_UTF8, os.fsdecode(b"\xff\xfe"), "café", "\\xe9"),
}
KINDS = [
    pytest.param(kind, marks=pytest.mark.skipif(sys.platform != "linux", reason="other systems forbid some names"))
    for kind in NAMES
]


def write(folder: Path, names: tuple[str, ...], count: int = 8) -> None:
    """A folder of pictures, which are named as their classes and differ in brightness."""
    for number, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for k in range(count):
            pixels = np.full((8, 8), 20 + 25 * number + k, np.uint8)
            PIL.Image.fromarray(pixels).save(folder / name / f"{name[:100]}{k}.png")


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_every_command_takes_it(workdir: Path, capsys: Capsys, kind: str) -> None:
    names, odd = NAMES[kind], NAMES[kind][0]
    data = Path(odd)
    write(data, names)
    flags = [f"--data.dataset={odd}", "--data.image_size=8", "--max_steps=20", "--pictures=true"]
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "Glyph")
        warnings.filterwarnings("error", module="matplotlib")
        run = fit(*flags)
    check_lines(capsys.readouterr().out)
    assert config_of(run)["data"]["dataset"] == odd and results_of(run)["dataset"] == odd
    assert sorted(yaml.safe_load((run / "hparams.yaml").read_text("utf-8"))["class_names"]) == sorted(names)
    assert {"model/weights", "mistakes/confusion_matrix"} <= set(events_of(run).Tags()["images"])

    moved = run.rename(run.with_name(odd))
    if kind == "bytes":
        refused([f"--resume={moved}", "--max_steps=40"], "whose name is no UTF-8; rename it", capsys)
        refused([*flags, f"--log_dir={odd}logs"], "whose name is no UTF-8; rename it", capsys)
        assert not Path(f"{odd}logs").exists()
    else:
        check_lines(said_by(main, [f"--resume={moved}", "--max_steps=40", "--pictures=true"], capsys))
        assert results_of(moved)["steps"] == 40
    assert sorted(load(moved).class_names) == sorted(names)

    found = json.loads(said_by(evaluate.main, [moved, "--json"], capsys))
    assert sorted(found["classes"]) == sorted(names) and found["run"] == str(moved)
    table = said_by(evaluate.main, [moved, "--pictures", odd + "shown", "--csv", odd + "shown"], capsys)
    check_lines(table)
    assert max(map(len, table.splitlines())) < 200
    with Path(odd + "shown", "classes.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    printed_names = [name.encode(errors="backslashreplace").decode() for name in load(moved).class_names]
    assert [row["class"] for row in rows] == printed_names
    assert sum(int(row["images"]) for row in rows) == found["images"]

    paths = sorted(str(path) for path in (data / odd).iterdir())
    listed = json.loads(said_by(predict.main, [moved, data / odd, "--format=json"], capsys))
    assert [row["path"] for row in listed] == paths and {row["classes"][0]["class"] for row in listed} <= set(names)
    rows = list(csv.DictReader(io.StringIO(said_by(predict.main, [moved, data / odd, "--format=csv"], capsys))))
    assert [row["path"] for row in rows] == [path.encode(errors="backslashreplace").decode() for path in paths]
    printed = said_by(predict.main, [moved, data / odd, "--picture", odd + "seen.png"], capsys)
    check_lines(printed)
    assert len(printed.splitlines()) == len(paths) and Path(odd + "seen.png").is_file()

    check_lines(said_by(export.main, [moved, odd + ".html"], capsys))
    check_lines(said_by(export.main, [moved, odd + ".onnx"], capsys))
    page = Path(odd + ".html").read_text("utf-8")
    model = json.loads(page.partition('id="model">')[2].partition("</script>")[0])
    assert sorted(model["classes"]) == sorted(names) and "<script>alert" not in page
    about = {prop.key: prop.value for prop in onnx.load(odd + ".onnx").metadata_props}
    assert sorted(json.loads(about["classes"])) == sorted(names)

    said = said_by(sweep, [*flags, "--model.lr=0.1x,1x"], capsys)
    check_lines(said)
    assert "test/accuracy" in results_of(newest())


def check_lines(printed: str) -> None:
    """Every line is one to a terminal."""
    for line in printed.splitlines():
        assert line.isprintable() or "\u200d" in line, ascii(line)
    assert len(printed.split("\n")) == len(printed.splitlines()) + printed.endswith("\n")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="other systems forbid some names")
@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_an_output_that_cannot_show_it(workdir: Path, encoding: str) -> None:
    names = ("猫", NOT_UTF8, "a\nb")
    write(Path("猫"), names)
    environment = {"PYTHONIOENCODING": encoding, "LC_ALL": "C", "encoding": encoding}
    words = ("--data.dataset=猫", "--data.image_size=8", "--max_steps=20", "--pictures=false")
    printed = run_script("fit", *words, **environment)
    assert ("猫" if encoding == "utf-8" else "\\u732b") in printed
    every = (["evaluate"], ["predict", "猫"], ["predict", "猫", "--format=csv"], ["export", "猫.html"])
    for script, *more in every if encoding == "ascii" else every[2:3]:
        printed = run_script(script, "last", *more, **environment)
        assert "猫" in printed or "\\u732b" in printed


def test_a_name_is_shown_on_one_line() -> None:
    assert printable("a\nb\t\x1b[1m\u2028\u202e") == r"a\nb\t\x1b[1m\u2028\u202e"
    assert printable(NOT_UTF8) == r"caf\xe9" and printable("猫👩‍👩‍👧 \\n") == "猫👩‍👩‍👧 \\n"
    assert shortened("abcdefghij", 10) == "abcdefghij" and shortened("abcdefghijk", 10) == "abcde…hijk"
    assert width("猫e\u0301👩‍👩") == 2 + 1 + 2 + 2 and padded("猫", 4) == "猫  "
    assert csv_line(["a\r", "b,", 'c"', "d\n", NOT_UTF8]) == '"a\r","b,","c""","d\n",caf\\udce9\n'


@pytest.mark.skipif(sys.platform == "win32", reason="Windows quotes in another way")
def test_a_printed_command_is_one_that_the_shell_takes() -> None:
    words = ["a\nb'c\\n", "$5$ x", "plain", NOT_UTF8, "\x1b"]
    line = quoted(words)
    assert "\n" not in line
    printed = subprocess.run(["bash", "-c", f"printf '%s\\0' {line}"], capture_output=True, check=True).stdout
    assert list(map(os.fsdecode, printed.split(b"\0")[:-1])) == words


@pytest.mark.parametrize("value", ["it`s", "a'b`c", 'x"`', "a\nb", "`", "\x1b[0m"])
def test_a_refused_name_gets_its_sentence(workdir: Path, capsys: Capsys, value: str) -> None:
    refused([f"--data.dataset={value}"], "is not known", capsys)


def test_an_error_has_a_length_that_a_person_reads(workdir: Path, capsys: Capsys) -> None:
    refused([f"--data.dataset={'x' * 5000}"], "…", capsys)


def test_figures_draw_names_as_text(recwarn: pytest.WarningsRecorder) -> None:
    names = ("$5$", "$\\frac$", "猫" * 3, "__proto__", "a" * 200, "b\nc", " ", "a" * 100 + "x" + "a" * 99, "Ж")
    assert labels(names) == [r"\$5\$", r"\$\frac\$", "#2", "__proto__", "#4", "b\\nc", "#6", "#7", "Ж"]
    probabilities = torch.eye(9)[torch.arange(18) % 9]
    targets = torch.arange(18) // 2
    drawn = (
        figures.confusion_matrix(probabilities, targets, names, "test"),
        figures.precision_recall(probabilities, targets, names, "test"),
        figures.weights(LogisticRegression(16, 9, class_names=list(names)), names),
    )
    for figure in drawn:
        figure.savefig(io.BytesIO())
    assert not recwarn.list
    legend = drawn[1].axes[0].get_legend()
    assert legend is not None and [text.get_text() for text in legend.get_texts()] == labels(names)


def test_letters_come_from_a_font_that_has_them() -> None:
    """DejaVu Sans, which matplotlib brings along, has Cyrillic letters; cmr10, its other one, has not."""
    from matplotlib import rc_context

    with rc_context({"font.family": ["cmr10"]}):
        _fonts_of.cache_clear()
        try:
            [text] = labels(["Жж"])
            figure = figures.grid(torch.zeros(1, 1, 8, 8, dtype=torch.uint8), [text], "x")
            with warnings.catch_warnings():
                warnings.filterwarnings("error", "Glyph")
                figure.savefig(io.BytesIO())
            assert text == "Жж" and "DejaVu Sans" in figure.axes[0].texts[0].get_fontfamily()
        finally:
            _fonts_of.cache_clear()
