"""What a folder's names say, as people and their tools name folders."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import not_on_windows

from logreg_lightning.data.layout import Layout, layout
from logreg_lightning.errors import InputError


def touch(*names: str) -> None:
    for name in names:
        file = Path("pets", name)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()


def read(**settings: list[str]) -> Layout:
    return layout(Path("pets"), **settings)


def found(known: list[str] | None = None) -> dict[str, set[str]]:
    """Of each split the files, as CLASS:NAME."""
    result = layout(Path("pets"), known)
    splits: dict[str, set[str]] = {}
    for path, split, label in result.files:
        splits.setdefault(split, set()).add(f"{result.classes[label]}:{path.name}")
    return splits


def classes_in(*folders: str, suffix: str = "") -> None:
    for number, folder in enumerate(folders):
        touch(*(f"{folder}/{name}/{name}{number}{suffix}.png" for name in ("cats", "dogs")))


SPLITS = {"train": {"cats:cats0.png", "dogs:dogs0.png"}, "test": {"cats:cats1.png", "dogs:dogs1.png"}}


@pytest.mark.parametrize(
    "names",
    [
        ("Training", "Testing"), ("TRN", "eval"), ("train", "TEST"), ("train", "valid"), ("training", "dev"),
        ("seg_train/seg_train", "seg_test/seg_test"), ("TrainingSet", "TestSet"), ("train2017", "val2017"),
        ("archive/data/train", "archive/data/test"), ("train/images", "test/images"),
        ("train", "seg_test"), ("seg_train", "test"), ("images_train", "images_test"), ("train_images", "test_images"),
        ("dataset-train", "dataset-test"), ("my_training_set", "my_test_set"),
        ("trainset", "testset"), ("TRAINDATA", "valdata"), ("TrainSet", "Testset"),
    ],
)  # fmt: skip
def test_splits_by_the_names_in_use(workdir: Path, names: tuple[str, str]) -> None:
    classes_in(*names)
    assert found() == SPLITS
    notes = " ".join(read().notes)
    assert f"{names[0].partition('/')[0]}" in notes and "for training" in notes and "for testing" in notes


def test_three_splits(workdir: Path) -> None:
    classes_in("train", "Validation", "eval")
    assert {split: len(files) for split, files in found().items()} == {"train": 2, "val": 2, "test": 2}
    assert "train/ for training, Validation/ for validation, eval/ for testing" in read().notes[-1]


def test_each_class_may_have_its_splits_inside(workdir: Path) -> None:
    touch("cats/train/cats0.png", "cats/test/cats1.png", "dogs/train/dogs0.png", "dogs/test/dogs1.png")
    assert found() == SPLITS
    touch("cats/train/big/cats0.png")
    assert found() == SPLITS
    assert read().notes[-1].endswith("such as cats/train/big/: they are of the class cats")


def test_a_test_folder_without_labels_is_left_out(workdir: Path) -> None:
    classes_in("train")
    touch("test/1.png", "test/2.png")
    assert found() == {"train": SPLITS["train"]} and not read().has_test
    assert "2 pictures in test/ have no labels" in read().notes[0]
    Path("pets/test/unknown").mkdir()
    for file in ("1.png", "2.png"):
        Path("pets/test", file).rename(Path("pets/test/unknown", file))
    assert found() == {"train": SPLITS["train"]}


def test_a_class_may_have_a_splits_name(workdir: Path) -> None:
    touch("train/1.png", "bus/2.png", "car/3.png")
    assert found() == {"train": {"train:1.png", "bus:2.png", "car:3.png"}}
    assert "train/ is a class here, beside bus/ and car/" in read().notes[0]
    Path("pets/train").rename("pets/train_station")
    assert "train_station/ is a class here" in read().notes[0]


@pytest.mark.parametrize(
    ("folders", "said"),
    [
        (("train", "val", "valid"), "two would be the same split"),
        (("train", "Training"), "two would be the same split"),
        (("val", "test"), "no folder train"),
        (("seg_train", "seg_test", "seg_pred_test"), "two would be the same split"),
        (("my_training_set", "other"), "my_training_set/, by the name"),
        (("images_test", "other"), "images_test/, by the name"),
        (("train_val", "seg_test"), "seg_test/, by the name"),
    ],
)
def test_what_can_be_understood_in_several_ways_is_refused(workdir: Path, folders: tuple[str, ...], said: str) -> None:
    if len({name.casefold() for name in folders}) == len(folders):
        classes_in(*folders)
        with pytest.raises(InputError, match=said):
            read()


def test_what_tools_leave_is_no_data(workdir: Path) -> None:
    touch("cats/1.png", "dogs/2.png")
    touch("cats/.ipynb_checkpoints/1-checkpoint.png", "dogs/.thumbnails/2.png", ".git/a/b", "cats/._1.png")
    touch("__MACOSX/cats/1.png", "cats/@eaDir/1.png", "dogs/Thumbs.db", "desktop.ini", "labels.csv", "dogs/notes.TXT")
    touch("cover.png")
    Path("pets/fish/deep").mkdir(parents=True)
    assert found() == {"train": {"cats:1.png", "dogs:2.png"}}
    counts = {reason: len(paths) for reason, paths in read().left_out.items()}
    assert counts == {
        "hidden": 4, "left by other programs": 4, "no pictures by their names": 2, "empty folders": 2,
        "outside the classes' folders": 1,
    }  # fmt: skip


@not_on_windows("a link needs a right that not everybody has")
def test_links_are_followed_but_not_in_circles(workdir: Path) -> None:
    touch("cats/1.png", "dogs/2.png", "../elsewhere/deep/3.png")
    Path("pets/cats/more").symlink_to(Path("elsewhere").resolve())
    Path("pets/dogs/again").symlink_to(Path("pets").resolve())
    Path("elsewhere/deep/up").symlink_to(Path("elsewhere").resolve())
    Path("pets/dogs/gone").symlink_to("nowhere")
    Path("pets/dogs/itself").symlink_to("itself")
    Path("pets/fish").symlink_to(Path("elsewhere").resolve())
    assert found() == {"train": {"cats:1.png", "cats:3.png", "dogs:2.png", "fish:3.png"}}
    assert {reason: len(paths) for reason, paths in read().left_out.items()} == {
        "links in a circle": 3, "links, pipes and devices that are no files": 2,
    }  # fmt: skip
    assert "2 pictures are in folders inside a class's, such as cats/more/" in read().notes[0]


def test_a_models_classes_may_be_missing(workdir: Path) -> None:
    touch("cats/1.png")
    assert found(["birds", "cats"]) == {"test": {"cats:1.png"}}
    touch("cats/2023/2.png")
    assert found(["birds", "cats"]) == {"test": {"cats:1.png", "cats:2.png"}}
    touch("fish/1.png")
    with pytest.raises(InputError, match="the model has no class fish"):
        read(known=["birds", "cats"])
    classes_in("train", "test")
    Path("pets/fish/1.png").unlink()
    Path("pets/cats/1.png").unlink()
    Path("pets/cats/2023/2.png").unlink()
    assert found(["cats", "dogs", "birds"]) == {"test": SPLITS["test"]}


@pytest.mark.parametrize("known", [None, ["cats", "dogs"]])
@pytest.mark.parametrize(
    ("more", "outside"),
    [
        (["a_train/cover.png"], 1),
        (["cover.png", "a_train/cover.png", "a_train/a/cover.png", "b_test/cover.png"], 4),
        (["other/x/1.png", "{odd}/1.png"], 0),
    ],
)  # fmt: skip
def test_what_is_left_out_is_counted_once(
    workdir: Path, more: list[str], outside: int, known: list[str] | None
) -> None:
    classes_in("a_train/a", "b_test")
    touch(*more)
    result = layout(Path("pets"), known)
    assert [path.name for path in result.left_out.get("outside the classes' folders", [])] == ["cover.png"] * outside
    assert len(result.files) == (4 if known is None else 2)
    left_out = [note for note in result.notes if "left out" in note]
    assert [note.split(" are ")[0] for note in left_out] == ([] if outside else ["2 files in other/ and {odd}/"])
    assert all("rename" in note and "move" in note for note in left_out)


def test_what_is_learnt_is_not_left_out(workdir: Path) -> None:
    touch("a_train/w/cats/1.png", "a_train/2.png", "b_test/3.png")
    assert found() == {"train": {"a_train:1.png", "a_train:2.png", "b_test:3.png"}}
    assert read().left_out == {}


@pytest.mark.parametrize("pictures", ["seg_pred_test", "seg_pred_test/seg_pred_test", "seg_pred", "test2"])
def test_pictures_without_labels_beside_splits_are_left_out(workdir: Path, pictures: str) -> None:
    classes_in("seg_train/seg_train", "seg_test/seg_test")
    touch(f"{pictures}/1.png", f"{pictures}/2.png")
    assert found() == SPLITS
    assert any("2 " in note and "left out" in note for note in read().notes)


def test_pictures_to_predict_beside_half_named_training_are_left_out(workdir: Path) -> None:
    classes_in("seg_train")
    touch("test/1.png")
    assert found() == {"train": SPLITS["train"]}
    assert "1 pictures in test/ have no labels" in read().notes[0]


def test_a_name_of_its_own_wins_over_a_word(workdir: Path) -> None:
    classes_in("train", "test", "train_old")
    assert found() == SPLITS
    assert "files in train_old/ are left out" in read().notes[0]


def test_a_models_class_may_have_a_splits_word(workdir: Path) -> None:
    touch("train_station/2023/1.png", "train_station/2024/2.png", "bus/3.png")
    assert found(["bus", "train_station"]) == {"test": {"train_station:1.png", "train_station:2.png", "bus:3.png"}}


@pytest.mark.parametrize("other", ["dogs/3.png", "cats/3.png", "dogs/raw/3.png", "cats/raw/3.png"])
def test_splits_inside_some_classes_alone_are_refused(workdir: Path, other: str) -> None:
    touch("cats/train/1.png", "cats/test/2.png", "dogs/train/4.png", other)
    with pytest.raises(InputError, match=f"pictures of {other[:4]}/ are in none of these"):
        read()


def test_a_kind_inside_a_class_may_have_a_splits_name(workdir: Path) -> None:
    touch("vehicles/train/1.png", "vehicles/bus/2.png", "animals/3.png")
    assert found() == {"train": {"vehicles:1.png", "vehicles:2.png", "animals:3.png"}}
