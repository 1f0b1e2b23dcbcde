"""A trained model used: evaluated, asked about pictures, exported, loaded as a library."""

from __future__ import annotations

import contextlib
import csv
import io
import itertools
import json
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageDraw
import pytest
import torch
from conftest import Capsys, Patch, documented, fit, not_on_windows, refused, results_of, said_by
from tolerance import EPS, LOSS, PROBABILITY

from logreg_lightning import ImageDataModule, load
from logreg_lightning.use import classifier, evaluate, export, predict

ROOT = Path(__file__).parents[2]
Main = Callable[[list[str]], None]


def pictures(count: int) -> list[Path]:
    """The first test images as dark-on-white PNGs of 280 x 280."""
    data = ImageDataModule("mnist")
    data.setup()
    Path("pictures").mkdir()
    paths = []
    for number, pixels in enumerate(data.data.test.pixels[:count]):
        paths.append(Path("pictures") / f"{number:05d}.png")
        PIL.Image.fromarray(255 - pixels[0].numpy()).resize((280, 280)).save(paths[-1])
    return paths


def draw_seven(path: Path) -> None:
    """A 7 as one draws it, dark on white."""
    picture = PIL.Image.new("L", (280, 280), 255)
    PIL.ImageDraw.Draw(picture).line([(90, 80), (190, 80), (130, 210)], 0, 20, "curve")
    picture.save(path)


@pytest.mark.parametrize("split", ["val", "test"])
def test_evaluates_to_what_training_wrote(run: Path, capsys: Capsys, split: str) -> None:
    found = json.loads(said_by(evaluate.main, [run, f"--split={split}", "--json"], capsys))
    results = results_of(run)
    for name in ("accuracy", "loss", *(["calibration_error"] if split == "test" else [])):
        # In training the validation loss was divided by the temperature, which is now in the weights.
        expected = results[f"{split}/{name}"]
        assert found[name] == (pytest.approx(expected, **LOSS) if split == "val" else expected), name
    confusion = np.array(found["confusion_matrix"])
    assert confusion.sum() == found["images"] == {"val": 60, "test": 100}[split]
    assert np.trace(confusion) / confusion.sum() == pytest.approx(found["accuracy"], rel=EPS)
    for number, row in enumerate(found["classes"].values()):
        assert row["images"] == confusion[number].sum()
        assert row["recall"] == pytest.approx(confusion[number, number] / max(1, confusion[number].sum()), rel=EPS)
    table = said_by(evaluate.main, [run, f"--split={split}"], capsys)
    assert f"{found['accuracy']:.5g}" in table and "confusion matrix" in table


def test_predicts_as_the_model_does(run: Path, capsys: Capsys) -> None:
    paths = pictures(20)
    printed = said_by(predict.main, [run, "pictures", "--format=csv", "--top=2"], capsys)
    rows = list(csv.DictReader(io.StringIO(printed)))
    assert [row["path"] for row in rows] == [str(path) for path in paths for _ in range(2)]
    model = load(run)
    expected = model.predict_proba([PIL.Image.open(path) for path in paths])
    for number, row in enumerate(rows[::2]):
        assert row["class"] == model.class_names[int(expected[number].argmax())]
        shown = float(row["probability"])  # with six digits
        assert shown == pytest.approx(float(expected[number].max()), abs=5e-7 + PROBABILITY)
    found = json.loads(said_by(predict.main, [run, paths[0], "--format=json"], capsys))
    assert found[0]["path"] == str(paths[0]) and found[0]["classes"][0]["class"] == rows[0]["class"]
    printed = said_by(predict.main, [run, paths[0]], capsys)
    assert re.search(rf"^{re.escape(str(paths[0]))} +[\d.]+%  {rows[0]['class']}$", printed, re.M)


def test_writes_pictures_only_where_it_says(run: Path) -> None:
    paths = pictures(3)
    before = set(Path().rglob("*"))
    evaluate.main([str(run), "--pictures=shown"])
    for path in paths:
        draw_seven(path)
    predict.main([str(run), *map(str, paths), "--digit", "--picture=seen.png"])
    new = {path.as_posix() for path in set(Path().rglob("*")) - before}
    assert {"seen.png", "shown", "shown/weights.png", "shown/confusion_matrix.png", "shown/reliability.png"} <= new
    assert all(path.startswith(("shown", "seen.png")) for path in new)
    with pytest.raises(SystemExit, match=r"^2$"):
        predict.main([str(run), str(paths[0]), "--picture=nowhere/seen.png"])


def test_names_and_skips_what_is_no_picture(run: Path, capsys: Capsys) -> None:
    paths = pictures(3)
    Path("pictures/notes.jpeg").write_text("hello", encoding="utf-8")
    Path("pictures/cut.png").write_bytes(paths[0].read_bytes()[:200])
    Path("pictures/.hidden").write_text("", encoding="utf-8")
    with pytest.raises(SystemExit, match=r"^1$"):
        predict.main([str(run), "pictures", "--format=csv"])
    printed = capsys.readouterr()
    assert len(printed.out.splitlines()) == 1 + 3
    for name in ("notes.jpeg", "cut.png"):
        assert f"{Path('pictures', name)} cannot be read" in printed.err
    assert "skipped 2 of 5 pictures" in printed.err and "hidden" not in printed.err


@pytest.mark.slow
def test_digits_as_dark_ink_on_paper_on_real_mnist(real_mnist: Path) -> None:
    model = load(fit("--data.dataset=mnist", "--max_epochs=2"))
    count = 2000
    paths = pictures(count)
    data = ImageDataModule("mnist")
    data.setup()
    labels, pixels = data.data.test.labels[:count], data.data.test.pixels[:count]
    direct = (model.predict_proba(pixels).argmax(1) == labels).float().mean()
    preds = torch.stack([row for _, _, row in predict.predict(model, paths, True, [])]).argmax(1)
    assert abs((preds == labels).float().mean() - direct) < 0.01


ODD = {
    "grey 16 bit": lambda: PIL.Image.fromarray((np.arange(784).reshape(28, 28) * 80).astype(np.uint16)),
    "one bit": lambda: PIL.Image.new("1", (50, 30)),
    "palette": lambda: PIL.Image.new("P", (50, 30)),
    "alpha": lambda: PIL.Image.new("RGBA", (50, 30), (0, 0, 0, 0)),
    "grey alpha": lambda: PIL.Image.new("LA", (50, 30), (0, 0)),
    "floats": lambda: PIL.Image.new("F", (50, 30), 7.0),
    "cmyk": lambda: PIL.Image.new("CMYK", (50, 30)),
    "one pixel": lambda: PIL.Image.new("RGB", (1, 1)),
    "a line": lambda: PIL.Image.new("RGB", (1000, 1)),
}


@pytest.mark.parametrize("kind", ODD)
def test_takes_any_picture(run: Path, kind: str) -> None:
    path = Path(f"odd.{'tif' if kind in ('grey 16 bit', 'floats', 'cmyk') else 'png'}")
    ODD[kind]().save(path)
    [(_, _, probabilities)] = predict.predict(load(run), [path], False, [])
    assert float(probabilities.sum()) == pytest.approx(1, abs=10 * EPS)  # of ten
    said: list[str] = []
    assert not list(predict.predict(load(run), [path], True, said)) and "no digit was seen" in said[0]


def test_exports_what_onnxruntime_runs_alike(run: Path, capsys: Capsys) -> None:
    import onnx
    import onnxruntime

    assert "by at most" in said_by(export.main, [run, "model.onnx"], capsys)
    model = load(run)
    session = onnxruntime.InferenceSession("model.onnx")
    for count in (1, 5):
        images = torch.randint(0, 256, (count, 1, 28, 28), dtype=torch.uint8)
        [found] = session.run(None, {session.get_inputs()[0].name: images.numpy()})
        torch.testing.assert_close(torch.from_numpy(found), model.predict_proba(images), atol=PROBABILITY, rtol=0)
    about = {prop.key: prop.value for prop in onnx.load("model.onnx").metadata_props}
    assert json.loads(about["classes"]) == list(map(str, range(10))) and "divided by 255" in about["preprocessing"]


def test_an_export_that_differs_is_not_written(run: Path, monkeypatch: Patch) -> None:
    monkeypatch.setattr(export, "compare", lambda *_: 0.5)
    with pytest.raises(SystemExit, match=r"^1$"):
        export.main([str(run), "model.onnx"])
    assert not Path("model.onnx").exists()


COMMANDS = [
    pytest.param(module.main, flags, id=f"{script} {flags}")
    for script, module in (("evaluate.py", evaluate), ("predict.py", predict), ("export.py", export))
    for flags in documented(script)
]


@pytest.mark.parametrize(("main", "flags"), COMMANDS)
def test_documented_commands_run(run: Path, capsys: Capsys, main: Main, flags: str) -> None:
    [picture] = pictures(1)
    draw_seven(picture)
    Path("docs/pictures").mkdir(parents=True)
    for name in ("my.png", "photo.jpg", "docs/pictures/my.png"):
        Path(name).write_bytes(picture.read_bytes())
    Path("pictures").rename("photos")
    main(shlex.split(flags))
    assert capsys.readouterr().out


WRONG: list[tuple[Main, str, str]] = [
    (evaluate.main, "nowhere", "no checkpoint found at nowhere"),
    (evaluate.main, "{run} --split=train", "split"),
    (evaluate.main, "{run} --data.dataset=digits", "its image"),
    (evaluate.main, "{run} --data.dataset=cats", "--data.dataset cats is not known"),
    (evaluate.main, "{run} --data.dataset=configs", "configs holds no pictures in a folder of their class"),
    (evaluate.main, "{run} --jsno", "did you mean --json?"),
    (predict.main, "nowhere my.png", "no checkpoint found at nowhere"),
    (predict.main, "{run} nowhere.png", "nowhere.png does not exist"),
    (predict.main, "{run} empty", "empty holds no pictures"),
    (predict.main, "{run} data --top=11", "--top must be from 1 to the 10 classes"),
    (predict.main, "{run} data --format=xml", "format"),
    (export.main, "nowhere model.onnx", "no checkpoint found at nowhere"),
    (export.main, "{run} nowhere/model.onnx", f"{Path('nowhere/model.onnx')} cannot be written"),
    (export.main, "{run} nowhere/page.html", f"{Path('nowhere/page.html')} cannot be written"),
    (export.main, "{run} model.pt", "model.pt must end in .onnx, for an ONNX file, or in .html, for a page"),
    (export.main, "{run}", "file"),
]


@pytest.mark.parametrize(("main", "flags", "named"), WRONG)
def test_wrong_input_gets_one_sentence(run: Path, capsys: Capsys, main: Main, flags: str, named: str) -> None:
    Path("empty").mkdir()
    refused(shlex.split(flags.format(run=run.as_posix())), named, capsys, main)


@pytest.mark.parametrize("name", ["evaluate", "predict", "export"])
def test_help_starts_with_an_example_and_there_is_a_version(name: str, capsys: Capsys) -> None:
    main: Main = {"evaluate": evaluate.main, "predict": predict.main, "export": export.main}[name]
    for flag, said in (
        ("--help", f"Example: logreg-lightning {name} lightning_logs/version_0"),
        ("--version", r"logreg_lightning \d"),
    ):
        assert re.search(said, said_by(main, [flag], capsys))


def test_a_row_a_picture_has_the_top_classes_as_columns(run: Path, capsys: Capsys) -> None:
    paths = pictures(3)
    found = json.loads(said_by(predict.main, [run, "pictures", "--format=json", "--top=3"], capsys))
    rows = list(
        csv.DictReader(io.StringIO(said_by(predict.main, [run, "pictures", "--format=wide", "--top=3"], capsys)))
    )
    assert [row["path"] for row in rows] == [str(path) for path in paths]
    for row, prediction in zip(rows, found, strict=True):
        for rank, expected in enumerate(prediction["classes"], 1):
            assert row[f"class_{rank}"] == expected["class"]
            assert float(row[f"probability_{rank}"]) == pytest.approx(expected["probability"], abs=5e-7 + PROBABILITY)


@pytest.mark.parametrize("unreadable", [False, True])
def test_json_is_one_array_as_json_writes_it(run: Path, capsys: Capsys, unreadable: bool) -> None:
    pictures(2)
    if unreadable:
        for path in Path("pictures").iterdir():
            path.write_text("no picture", encoding="utf-8")
    capsys.readouterr()
    with contextlib.suppress(SystemExit):
        predict.main([str(run), "pictures", "--format=json", "--top=2"])
    text = capsys.readouterr().out
    assert text == json.dumps(json.loads(text), indent=2) + "\n" and len(json.loads(text)) == (0 if unreadable else 2)


@pytest.mark.parametrize("format_", ["table", "csv", "wide", "json"])
def test_an_interrupt_keeps_what_was_written(run: Path, capsys: Capsys, monkeypatch: Patch, format_: str) -> None:
    count = predict.BATCH + 20
    paths = pictures(1) * count
    read = classifier.open_picture
    number = itertools.count(1)

    def interrupted(path: Path, *more: Any) -> PIL.Image.Image:
        if next(number) > predict.BATCH:  # in the second batch
            raise KeyboardInterrupt
        return read(path, *more)

    monkeypatch.setattr(predict, "open_picture", interrupted)
    capsys.readouterr()
    with pytest.raises(SystemExit, match=r"^130$"):
        predict.main([str(run), *map(str, paths), f"--format={format_}"])
    text = capsys.readouterr().out
    rows = json.loads(text) if format_ == "json" else text.splitlines()[format_ in ("csv", "wide") :]
    assert len(rows) == predict.BATCH


@not_on_windows("a signal cannot be sent to one process")
@pytest.mark.slow
def test_ctrl_c_closes_the_array(run: Path) -> None:
    pictures(30)
    words = [sys.executable, str(ROOT / "scripts/predict.py"), str(run), *["pictures"] * 100, "--format=json"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(10)]  # it has begun to write more than a pipe holds
        process.send_signal(signal.SIGINT)
        text = "".join(lines) + process.stdout.read()
    assert process.returncode == 130 and 0 < len(json.loads(text)) < 3000
