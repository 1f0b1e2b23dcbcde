"""A folder's pictures of more than 8 bits, of other shapes, and damaged: what is made of them, kept, and said."""

from __future__ import annotations

import base64
import itertools
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from conftest import Capsys, Patch, fit, ready, results_of, said_by, write_pictures

from logreg_lightning import load
from logreg_lightning.data import folder, pictures
from logreg_lightning.data.dataset import Dataset, key_of
from logreg_lightning.datamodule import ImageDataModule
from logreg_lightning.features import extract
from logreg_lightning.features.view import View
from logreg_lightning.runtime.checkpoints import read
from logreg_lightning.use import evaluate, export, predict
from logreg_lightning.use.page import page

CPU = [torch.device("cpu")]
RNG = np.random.default_rng(0)


def scan(level: float, marker: int = 0) -> np.ndarray[Any, Any]:
    """A picture of 16 bits of one mean level, far below 65535, with a bright corner if asked for."""
    values = RNG.normal(level, 10, (20, 20)).clip(1, 999)
    values[0, 0] = marker or values[0, 0]
    return values.astype(np.uint16)


def write_scans(folder: Path, count: int, suffix: str = "png", factor: float = 1) -> None:
    """Two classes that differ in level alone; every second picture has a corner that is bright in its own way."""
    for name, level in (("dim", 100), ("light", 160)):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            values = scan(level, 300 + 5 * number if number % 2 else 0)
            picture = values if factor == 1 else (values * factor).astype(np.float32)
            PIL.Image.fromarray(picture).save(folder / name / f"{number:02}.{suffix}")


def data_of(dataset: str = "scans", **settings: Any) -> Dataset:
    return ready(ImageDataModule(dataset, **settings)).data


def values_in(path: Path) -> np.ndarray[Any, Any]:
    with PIL.Image.open(path) as picture:
        return np.asarray(picture).astype(np.float64)


def test_the_range_is_that_of_the_training_pictures_alone(workdir: Path) -> None:
    write_scans(Path("scans/train"), 20)
    write_scans(Path("scans/test"), 5)
    PIL.Image.fromarray(np.full((20, 20), 60_000, np.uint16)).save("scans/test/dim/00.png")
    data, trained_on = data_of(image_size=20), sorted(Path("scans/train").rglob("*.png"))
    arrays = [values_in(path) for path in trained_on]
    low, high = np.percentile([a.min() for a in arrays], 5), np.percentile([a.max() for a in arrays], 95)
    assert data.pixel_range == pytest.approx((low, high), rel=1e-12)
    expected = np.round((np.stack(arrays).clip(low, high) - low) * (255 / (high - low)))
    assert np.array_equal(data.train.pixels[: len(arrays), 0].numpy(), expected)
    assert data.test.pixels[len(arrays), 0].min() == 255  # above all that was trained on
    write_pictures(Path("pets"), 10)
    assert data_of("pets").pixel_range is None


@pytest.mark.parametrize(("suffix", "factor"), [("png", 1), ("tif", 1 / 4000)])
def test_a_level_that_each_pictures_own_maximum_hides_is_learnt(workdir: Path, suffix: str, factor: float) -> None:
    write_scans(Path("scans"), 40, suffix, factor)
    assert results_of(fit("--data.dataset=scans", "--data.image_size=5"))["test/accuracy"] == 1.0


@pytest.fixture
def scanned(workdir: Path) -> Path:
    """A run on pictures of 16 bits in scans/, and brighter ones in other/, which it would call light."""
    write_scans(Path("scans/train"), 20)
    write_scans(Path("scans/test"), 5)
    write_scans(Path("other/train"), 5)
    for path in Path("other").rglob("*.png"):
        PIL.Image.fromarray((values_in(path) + 200).astype(np.uint16)).save(path)
    write_scans(Path("other/test"), 5)
    return fit("--data.dataset=scans", "--data.image_size=6", "--max_epochs=40", "--pictures=true")


def test_a_model_keeps_its_range_wherever_it_is_used(scanned: Path, capsys: Capsys) -> None:
    data = data_of(image_size=6)
    model = load(scanned)
    assert model.pixel_range == data.pixel_range is not None
    kept = read(scanned / "checkpoints/last.ckpt")
    assert kept["hyper_parameters"]["pixel_range"] == kept["ImageDataModule"]["pixel_range"] == list(data.pixel_range)

    paths = sorted(Path("scans/test").rglob("*.png"))
    pixels = data.test.pixels[data.test_indices]
    for path, row in zip(paths, pixels, strict=True):
        with PIL.Image.open(path) as picture:
            assert torch.equal(model.prepare(picture), row)
            assert torch.equal(model.predict_proba(picture), model.predict_proba(str(path)))
    printed = json.loads(said_by(predict.main, [scanned, "scans/test", "--format=json"], capsys))
    found = [one["classes"][0] for one in printed]
    expected = model.predict_proba(pixels).max(1).values.tolist()
    assert [one["probability"] for one in found] == pytest.approx(expected, abs=1e-6)
    assert [one["class"] for one in found] == [path.parent.name for path in paths]

    text = page(model)
    about = json.loads(re.search(r'id="model">(.*?)</script>', text).group(1))  # type: ignore[union-attr]
    assert about["range"] == list(data.pixel_range) and base64.b64decode(about["weight"])
    onnx = pytest.importorskip("onnx")
    stated = {prop.key: prop.value for prop in onnx.load_from_string(export.export(model)).metadata_props}
    assert f"{data.pixel_range[0]:.9g} becomes 0 and {data.pixel_range[1]:.9g} becomes 255" in stated["preprocessing"]


def test_another_data_set_is_evaluated_in_the_models_range(scanned: Path, capsys: Capsys) -> None:
    other = ["--data.dataset=other", "--json"]
    assert data_of("other").pixel_range != load(scanned).pixel_range
    assert json.loads(said_by(evaluate.main, [scanned, *other], capsys))["accuracy"] == 1.0


def test_a_run_is_not_resumed_in_another_range(scanned: Path, capsys: Capsys) -> None:
    for path in Path("scans/train").rglob("*.png"):
        PIL.Image.fromarray((values_in(path) + 20).astype(np.uint16)).save(path)
    capsys.readouterr()
    with pytest.raises(SystemExit, match=r"^2$"):
        fit("--resume=last", "--max_epochs=41")
    assert "cannot be resumed with this data: its" in capsys.readouterr().err


# What is not as it should be.


def test_reasons_are_said_each_time_and_cost_nothing(workdir: Path, monkeypatch: Patch) -> None:
    write_pictures(Path("pets"), 12)
    Path("pets/cats/notes.txt").write_text("not a picture", encoding="utf-8")
    Path("pets/dogs/000.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(99))
    Path("pets/dogs/001.png").write_bytes(b"")
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    reasons = {
        "dogs/000.heic": "HEIC, which needs a package: pip install pillow-heif",
        "dogs/001.png": "it is empty",
    }
    said = ", ".join(f"{Path(name)} ({reason})" for name, reason in reasons.items())
    for _ in range(2):
        left_out = f"1 no pictures by their names ({Path('cats/notes.txt')}); 2 unreadable ({said})"
        assert data_of("pets").notes[0] == f"left out: {left_out}"
    Path("pets/dogs/002.gif").write_bytes(b"GIF89a")
    note = data_of("pets").notes[0]
    assert note.startswith("left out: 1 no pictures by their names")


def test_a_reason_in_any_language_is_kept(workdir: Path, monkeypatch: Patch) -> None:
    write_pictures(Path("pets"), 12)
    broken = Path("pets/cats/b.png")
    broken.write_bytes(b"broken")
    monkeypatch.setattr(extract, "reason_of", lambda _: "défaut \udcff 猫")
    assert "défaut \udcff 猫" in data_of("pets").notes[0] == data_of("pets").notes[0]


def write_shapes() -> None:
    write_pictures(Path("pets"), 20)  # none is twice as long as wide; which are cut at all is drawn
    for path in Path("pets").rglob("*.*"):
        with PIL.Image.open(path) as picture:
            square = picture.resize((30, 30))
        square.save(path)
    for number, size in enumerate([(60, 30), (30, 60), (44, 30), (40, 30), (61, 30), (30, 61), (300, 30)]):
        PIL.Image.new("RGB", size, "red").save(f"pets/cats/z{number}.png")


@pytest.mark.parametrize("color", [True, False])
def test_how_many_lose_their_ends_or_are_squeezed_is_said(workdir: Path, color: bool) -> None:
    write_shapes()
    for _ in range(2):
        cut, squeezed = data_of("pets", color=color).notes[-2:]
        assert cut.startswith("3 of 47 pictures ")  # 60 x 30, 30 x 60 and 44 x 30
        assert squeezed.startswith("3 of 47 pictures ") and "squeezed" in squeezed
    for name in "0124567":
        Path(f"pets/cats/z{name}.png").unlink(missing_ok=True)
    assert not any("squeezed" in note or "cut off" in note for note in data_of("pets", color=color).notes)


# One cache for each that decides its content.


def test_runs_on_one_folder_at_one_time_load_what_is_theirs(workdir: Path) -> None:
    write_scans(Path("scans"), 12)
    ranges: list[Any] = [(0.0, 500.0), (50.0, 900.0), "auto"]
    settings = list(itertools.product((4, 6), (True, False), ("pixels",), ranges))
    views = [View("scans", Path("data"), *given) for given in settings]
    alone = []
    for number, given in enumerate(settings):
        apart = View("scans", Path(f"alone{number}"), *given)
        apart.prepare(CPU, 1)
        alone.append(apart.load().train.pixels.clone())
    for view in views:  # all are made before the first is loaded
        view.prepare(CPU, 1)
    found = [view.load().train.pixels for view in views]
    assert all(map(torch.equal, found, alone))
    assert len({(tuple(one.shape), one.numpy().tobytes()) for one in found}) == len(views)
    assert len(list(Path("data/features", key_of(Path("scans"))).iterdir())) == len(views)


def test_a_range_makes_no_difference_to_pictures_of_8_bits(workdir: Path) -> None:
    write_pictures(Path("pets"), 10)
    for range_ in ("auto", None, (0.0, 500.0)):
        view = View("pets", Path("data"), 8, True, "pixels", range_)
        view.prepare(CPU, 1)
        view.load()
    assert len(list(Path("data/features", key_of(Path("pets"))).iterdir())) == 1


def test_only_a_new_picture_is_read_for_its_extremes(workdir: Path, monkeypatch: Patch) -> None:
    write_scans(Path("scans"), 12)
    seen: list[bytes] = []
    extremes = pictures.extremes
    monkeypatch.setattr(folder, "extremes", lambda data: (seen.append(data), extremes(data))[1])  # type: ignore[func-returns-value]
    data_of()
    assert len(seen) == 24
    data_of()
    assert len(seen) == 24
    PIL.Image.fromarray(scan(100)).save("scans/dim/new.png")
    data_of()
    assert len(seen) == 25


def test_a_folder_of_nothing_readable_is_refused(workdir: Path, capsys: Capsys) -> None:
    for name in ("a", "b"):
        Path("pets", name).mkdir(parents=True)
        Path("pets", name, "x.csv").write_text("1,2", encoding="utf-8")
    with pytest.raises(SystemExit):
        fit("--data.dataset=pets")
    assert "a folder of pictures for each class, at least two" in capsys.readouterr().err
