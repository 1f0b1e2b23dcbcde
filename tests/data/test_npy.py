"""A folder of features that somebody else computed: trained on where they lie, each thing wrong with them named."""

from __future__ import annotations

import io
import json
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from conftest import Capsys, Patch, events_of, fit, not_on_windows, refused, results_of, said_by, weights_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tolerance import PROBABILITY

from logreg_lightning import LogisticRegression
from logreg_lightning.data import npy
from logreg_lightning.errors import InputError
from logreg_lightning.runtime.checkpoints import read
from logreg_lightning.use import evaluate, export, predict

FOLDER = Path("mine")
TRAIN, TRAIN_LABELS, TEST, TEST_LABELS = (FOLDER / name for name in npy.FILES)
CLASSES = FOLDER / "classes.txt"
FLAGS = ["--data.dataset=mine", "--max_epochs=10"]
WIDTH = 6


def values(count: int, seed: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Features of three classes, far from each other, as float16 holds them, and their labels."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(count) % 3)
    middles = 40 * np.eye(3, WIDTH) + 7
    return (middles[labels] + rng.normal(size=(count, WIDTH))).astype(np.float16), labels


def write(dtype: Any = np.float32, labels: Any = np.int64, train: int = 120, test: int = 30) -> None:
    FOLDER.mkdir(exist_ok=True)
    for features_file, labels_file, count in ((TRAIN, TRAIN_LABELS, train), (TEST, TEST_LABELS, test)):
        rows, targets = values(count, count)
        np.save(features_file, rows.astype(dtype))
        np.save(labels_file, targets.astype(labels))


def contents() -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in FOLDER.iterdir()}


def test_any_float_is_learnt_alike_and_stays_as_it_is(workdir: Path) -> None:
    weights = []
    for dtype, labels in ((np.float32, np.int64), (np.float16, np.uint8), (np.float64, ">i2")):
        write(dtype, labels)
        before = contents()
        run = fit(*FLAGS)
        assert contents() == before and not any(Path("data").rglob("*.npy"))
        results = results_of(run)
        assert results["test/accuracy"] == 1.0 and results["features"] == "npy" and results["dataset"] == "mine"
        weights.append(weights_of(run))
        assert npy.load(FOLDER).train.pixels.numpy().dtype == dtype
    for name, value in weights[0].items():
        for other in weights[1:]:
            assert torch.equal(other[name], value)  # the values are those that float16 has, and all computes in float32


def test_the_same_share_of_each_class_is_held_out(workdir: Path, capsys: Capsys) -> None:
    write()
    rows, labels = values(120, 120)
    many = np.concatenate([np.flatnonzero(labels == 0)[:4], np.flatnonzero(labels != 0)])
    np.save(TRAIN, rows[many].astype(np.float32))
    np.save(TRAIN_LABELS, labels[many])
    fit(*FLAGS, "--data.val_size=0.25", "--max_epochs=1")
    counts = re.search(r"mine: (\d+) training, 30 test, (\d+) validation", capsys.readouterr().out)
    assert counts is not None and int(counts[1]) + int(counts[2]) == 84 and 11 <= int(counts[2]) <= 31
    checkpoint = read(Path("lightning_logs/version_0/checkpoints/last.ckpt"))
    assert checkpoint["ImageDataModule"]["split"] == "stratified"
    assert checkpoint["ImageDataModule"]["image_shape"] == [WIDTH] and checkpoint["ImageDataModule"]["backbone"] is None


def test_probabilities_are_those_of_the_formula(workdir: Path, capsys: Capsys) -> None:
    write()
    CLASSES.write_text("élan\nfox\nred panda\n", encoding="utf-8")
    run = fit(*FLAGS)
    model = LogisticRegression.load(run)
    rows, labels = (np.load(file) for file in (TEST, TEST_LABELS))
    kept = {name: value.double().numpy() for name, value in weights_of(run).items()}
    scaled = (rows.astype(np.float64) - kept["standardizer.mean"]) * kept["standardizer.scale"]
    logits = (scaled @ kept["standardized_linear.weight"].T + kept["standardized_linear.bias"]) / kept["temperature"]
    exps = np.exp(logits - logits.max(1, keepdims=True))
    expected = torch.from_numpy(exps / exps.sum(1, keepdims=True)).float()
    torch.testing.assert_close(model.predict_proba(rows), expected, atol=PROBABILITY, rtol=0)
    for same in (torch.from_numpy(rows), list(rows), rows.astype(np.float64)):
        torch.testing.assert_close(model.predict_proba(same), expected, atol=PROBABILITY, rtol=0)
    torch.testing.assert_close(model.predict_proba(rows[4]), expected[4:5], atol=PROBABILITY, rtol=0)
    assert model.predict(rows) == [("élan", "fox", "red panda")[label] for label in labels]
    for wrong in (rows[:, 1:], rows.astype(np.int64), rows[None], np.zeros((3, 2, 1), np.uint8)):
        with pytest.raises(InputError, match=rf"not what this model takes: features, floats \(N, {WIDTH}\)$"):
            model.predict_proba(wrong)

    metrics = json.loads(said_by(evaluate.main, [run, "--json"], capsys))
    assert metrics["accuracy"] == 1.0 and list(metrics["classes"]) == ["élan", "fox", "red panda"]
    assert np.array_equal(np.array(metrics["confusion_matrix"]), np.diag(np.bincount(labels)))


def test_a_model_of_features_takes_no_pictures(workdir: Path, capsys: Capsys) -> None:
    write()
    run = fit(*FLAGS, "--max_epochs=1")
    picture = PIL.Image.new("RGB", (50, 40))
    picture.save("my.png")
    model = LogisticRegression.load(run)
    for given_ in (picture, [picture, picture]):
        with pytest.raises(InputError, match=rf"^this model takes no pictures: it was trained on {WIDTH} features"):
            model.predict(given_)
    for words in ([str(run), "my.png"], [str(run), "my.png", "--digit"]):
        refused(words, "", capsys, predict.main)


def test_exports_what_onnxruntime_runs_alike(workdir: Path) -> None:
    import onnxruntime

    write()
    run = fit(*FLAGS)
    export.main([str(run), "model.onnx"])
    session = onnxruntime.InferenceSession("model.onnx")
    rows = np.load(TEST)
    [probabilities] = session.run(None, {session.get_inputs()[0].name: rows})
    expected = LogisticRegression.load(run).predict_proba(rows)
    torch.testing.assert_close(torch.from_numpy(probabilities), expected, atol=PROBABILITY, rtol=0)


@not_on_windows("a file that is mapped cannot be written")
def test_features_stay_in_their_file(workdir: Path) -> None:
    write()
    data = npy.load(FOLDER)
    rows = data.train.pixels
    with TRAIN.open("r+b") as file:  # what reads the file sees what is written into it
        file.seek(-rows[0].nbytes, 2)
        file.write(np.full(WIDTH, 123, np.float32).tobytes())
    assert rows[-1].tolist() == [123] * WIDTH
    taken, labels = data.train.take(torch.tensor([119, 0], dtype=torch.int32))
    assert taken[0].tolist() == [123] * WIDTH and labels.dtype == torch.int64


def test_rows_are_what_numpy_reads_in_any_order_of_memory(workdir: Path) -> None:
    write()
    rows, labels = np.load(TRAIN), np.load(TRAIN_LABELS)
    np.save(TRAIN, np.asfortranarray(rows))
    data = npy.load(FOLDER)
    assert np.array_equal(data.train.pixels.numpy(), rows) and data.train.labels.tolist() == labels.tolist()
    assert (data.classes, data.image_shape, data.num_features) == (("0", "1", "2"), (WIDTH,), WIDTH)
    assert not data.train.thumbnails(torch.tensor([0], dtype=torch.int32), 32)
    CLASSES.write_text("a\nb\nc\n", encoding="utf-8-sig")  # as Windows' Notepad writes it
    assert npy.load(FOLDER).classes == ("a", "b", "c")


def test_a_run_goes_on_only_with_features_alike(workdir: Path, capsys: Capsys) -> None:
    write()
    flags = [*FLAGS, "--model.schedule=constant"]
    whole = fit(*flags, "--max_epochs=4")
    fit(*flags, "--max_epochs=2")
    grown = fit("--resume=last", "--max_epochs=4")
    assert all(torch.equal(weights_of(grown)[name], value) for name, value in weights_of(whole).items())
    CLASSES.write_text("a\nb\nc\n", encoding="utf-8")
    refused(["--resume=last", "--max_epochs=6"], "its classes is ['a', 'b', 'c']", capsys)


def test_the_projector_shows_some_of_many_without_pictures(workdir: Path) -> None:
    write(train=5200)
    CLASSES.write_text("a\tb\nc\nd\n", encoding="utf-8")
    run = fit(*FLAGS, "--data.val_size=0.5", "--max_epochs=1", "--pictures=true")
    [folder] = {file.parent for file in run.rglob("tensors.tsv")}
    assert (run / "projector_config.pbtxt").is_file() and not (folder / "sprite.png").exists()
    header, *names = (folder / "metadata.tsv").read_text(encoding="utf-8").splitlines()
    points = np.loadtxt(folder / "tensors.tsv")
    assert header == "class\tpredicted class" and len(names) == len(points) == 2000
    classes = np.array([("a\\tb", "c", "d").index(name.split("\t")[0]) for name in names])
    assert np.bincount(classes).min() > 600
    # Points of a class lie together, as their features do.
    middles = np.stack([points[classes == number].mean(0) for number in range(3)])
    nearest = np.linalg.norm(points[:, None] - middles, axis=2).argmin(1)
    assert (nearest == classes).all()
    names_of_figures = "mistakes/confusion_matrix confidence/reliability confidence/precision_recall data/class_counts"
    assert set(events_of(run).Tags()["images"]) == set(names_of_figures.split())


# What is wrong with a folder.


Spoil = Callable[[Path], object]
Array = np.ndarray[Any, Any]


def saved(change: Callable[[Array], Any]) -> Spoil:
    """Another array in the file."""
    return lambda file: np.save(file, change(np.load(file)), allow_pickle=True)


def put(number: float, row: int) -> Spoil:
    """Another number, in that row."""

    def change(rows: Array) -> Array:
        rows[row, WIDTH - 1] = number
        return rows

    return saved(change)


def written(content: bytes) -> Spoil:
    return lambda file: file.write_bytes(content)


def cut(end: int) -> Spoil:
    return lambda file: file.write_bytes(file.read_bytes()[:end])


def header(before: bytes, after: bytes) -> Spoil:
    def spoil(file: Path) -> None:
        content = file.read_bytes()
        assert len(before) == len(after) and before in content
        file.write_bytes(content.replace(before, after, 1))

    return spoil


def archive(**arrays: Any) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def folder_in_its_place(file: Path) -> None:
    file.unlink()
    file.mkdir()


def one_class(file: Path) -> None:
    for labels in (TRAIN_LABELS, TEST_LABELS):
        saved(lambda rows: rows * 0)(labels)


NO_NPY = "is not a complete .npy file"
NOT_FINITE = "holds a number that is not finite, NaN, infinite or beyond float32, in row"
BAD: dict[str, tuple[Path, Spoil, str]] = {
    "objects": (TRAIN, saved(lambda rows: rows.astype(object)), NO_NPY),
    "objects as labels": (TEST_LABELS, saved(lambda rows: rows.astype(object)), NO_NPY),
    "cut": (TRAIN, cut(-1), NO_NPY),
    "cut in the header": (TEST, cut(40), NO_NPY),
    "no npy": (TRAIN, written(b"1,2,3\n"), NO_NPY),
    "several arrays": (TRAIN, written(archive(a=np.zeros((3, 3)), b=np.zeros(3))), "holds several arrays"),
    "integers as features": (TRAIN, saved(lambda rows: rows.astype(int)), "holds int64 (120, 6), not features"),
    "complex": (TEST, saved(lambda rows: rows * 1j), "holds complex64 (30, 6), not features"),
    "other byte order": (TEST, saved(lambda rows: rows.astype(">f4")), "holds >f4 (30, 6), not features"),
    "one dimension": (TRAIN, saved(lambda rows: rows[:, 0]), "holds float32 (120,), not features"),
    "three dimensions": (TEST, saved(lambda rows: rows[..., None]), "holds float32 (30, 6, 1), not features"),
    "no rows": (TEST, saved(lambda rows: rows[:0]), "holds float32 (0, 6), not features"),
    "no columns": (TRAIN, saved(lambda rows: rows[:, :0]), "holds float32 (120, 0), not features"),
    "NaN": (TRAIN, put(float("nan"), 77), f"{NOT_FINITE} 77;"),
    "infinite": (TEST, put(-float("inf"), 29), f"{NOT_FINITE} 29;"),
    "too few labels": (TRAIN_LABELS, saved(lambda rows: rows[1:]), "119 labels"),
    "too few rows": (TEST, saved(lambda rows: rows[1:]), f"has 29 rows, but {TEST_LABELS} 30 labels"),
    "float labels": (TRAIN_LABELS, saved(lambda rows: rows * 1.0), "holds float64 (120,), not labels"),
    "boolean labels": (TEST_LABELS, saved(lambda rows: rows > 0), "holds bool (30,), not labels"),
    "one-hot labels": (TRAIN_LABELS, saved(lambda rows: np.eye(3, dtype=int)[rows]), "holds int64 (120, 3), not"),
    "negative label": (TEST_LABELS, saved(lambda rows: rows - 1), "holds the label -1; the first class is 0"),
    "other widths": (TEST, saved(lambda rows: rows[:, 1:]), f"has 5 features a row, not 6 as {TRAIN.name}"),
    "missing": (TEST_LABELS, Path.unlink, "a folder of features holds train_features.npy, train_labels.npy, test_"),
    "missing features": (TRAIN, Path.unlink, "cannot be read"),
    "a folder": (TEST, folder_in_its_place, "cannot be read"),
    "one class": (FOLDER, one_class, "has one class; at least two are needed"),
    "label beyond the rows": (FOLDER, lambda _: saved(lambda rows: rows * 500_000)(TRAIN_LABELS), "label 1000000, but"),
    "label beyond the names": (CLASSES, written(b"a\nb\n"), "names 2 classes, but there is the label 2"),
    "a name twice": (CLASSES, written(b"a\nb\na\n"), "has an empty line or a name twice"),
    "a name that is empty": (CLASSES, written(b"a\n\nb\n"), "has an empty line or a name twice"),
    "no UTF-8": (CLASSES, written(b"\xe9\nb\nc\n"), "cannot be read as UTF-8 text"),
    "empty": (TRAIN, written(b""), NO_NPY),
    "empty labels": (TEST_LABELS, written(b""), NO_NPY),
    "several arrays, cut": (TRAIN, written(archive(a=np.zeros((3, 3)))[:99]), ""),
    "a header that is no Python": (TRAIN, header(b"(120, 6)", b"(120, 6 "), NO_NPY),
    "negative size": (TRAIN, header(b"(120, 6)", b"(-12, 6)"), NO_NPY),
    "no names": (CLASSES, written(b""), ""),
}


@pytest.mark.parametrize("kind", BAD)
def test_each_thing_wrong_is_one_sentence(workdir: Path, capsys: Capsys, kind: str) -> None:
    write()
    file, spoil, named = BAD[kind]
    spoil(file)
    refused(["--data.dataset=mine"], named, capsys)
    with pytest.raises(InputError, match=re.escape(str(file))):
        npy.load(FOLDER)


def test_the_row_is_named_whatever_the_file_holds(workdir: Path, monkeypatch: Patch) -> None:
    monkeypatch.setattr(npy, "CHUNK", 7 * WIDTH)
    for dtype in (np.float16, np.float64):
        for row in (0, 6, 7, 118, 119):
            write(dtype)
            put(float("inf"), row)(TRAIN)
            with pytest.raises(InputError, match=rf" in row {row};"):
                npy.load(FOLDER)
    for dtype, large in ((np.float16, 6e4), (np.float64, 3e38)):  # finite, although their sum is not
        write(dtype)
        np.save(TRAIN, np.full((120, WIDTH), large, dtype))
        assert len(npy.load(FOLDER).train) == 120


@given(data=st.data())
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_are_right_values_or_refused(tmp_path: Path, data: st.DataObject) -> None:
    file = io.BytesIO()
    np.save(file, np.arange(12, dtype=np.float32).reshape(4, 3))
    whole = bytearray(file.getvalue())
    kind = data.draw(st.sampled_from(["any", "cut", "altered", "header"]))
    if kind == "any":
        content = data.draw(st.sampled_from([b"", b"\x93NUMPY\x01\x00", b"PK\x03\x04"])) + data.draw(
            st.binary(max_size=60)
        )
    elif kind == "cut":
        content = bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    elif kind == "altered":
        for position in data.draw(st.lists(st.integers(0, len(whole) - 1), min_size=1, max_size=3)):
            whole[position] = data.draw(st.integers(0, 255))
        content = bytes(whole)
    else:
        shape = data.draw(st.lists(st.integers(-(2**70), 2**70) | st.integers(-3, 9), max_size=3))
        text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {tuple(shape)}}}".ljust(117) + "\n"
        content = bytes(whole[:8]) + len(text).to_bytes(2, "little") + text.encode() + bytes(whole[128:])
    path = tmp_path / "train_features.npy"
    path.write_bytes(content)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = npy._read(path)
    except InputError as error:
        assert str(path) in str(error) and "\n" not in str(error)
    else:
        expected = np.load(io.BytesIO(content), allow_pickle=False)
        assert found.shape == expected.shape and found.dtype == expected.dtype
        assert found.tobytes() == expected.tobytes()
