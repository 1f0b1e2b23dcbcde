"""What a folder's names say: which pictures are of which class and of which split, and what is no picture of it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from logreg_lightning.errors import InputError
from logreg_lightning.runtime.files import LOCK

SPLITS = {
    **dict.fromkeys(("train", "training", "trn"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing", "eval"), "test"),
}
"""Names of splits' folders, in any case, and what they are for."""

OF_TOOLS = frozenset(
    {"__macosx", "@eadir", "thumbs.db", "ehthumbs.db", "desktop.ini", "__pycache__", "lost+found", "icon\r"}
    | {"$recycle.bin", "system volume information", "#recycle", "@recycle", "@tmp"}
)
"""What systems and tools leave in folders, in any case."""

NO_PICTURES = frozenset(
    {
        ".txt",
        ".csv",
        ".tsv",
        ".json",
        ".jsonl",
        ".xml",
        ".yaml",
        ".yml",
        ".md",
        ".rst",
        ".html",
        ".htm",
        ".py",
        ".ipynb",
    }
    | {
        ".pdf",
        ".zip",
        ".gz",
        ".tar",
        ".7z",
        ".rar",
        ".db",
        ".ini",
        ".log",
        ".pkl",
        ".pt",
        ".npy",
        ".npz",
        ".mat",
        ".h5",
    }
    | {".hdf5", ".parquet", ".doc", ".docx", ".xls", ".xlsx", ".url", ".lnk", ".sh", ".bat"}
)
"""Suffixes, in any case, of files that nobody would take for pictures."""

MARKS = (LOCK, "hparams.yaml")
"""A folder that this project writes has the first from its first moment; a run of a stock Trainer has the second."""

HIDDEN, LEFT, OWN, BY_NAME, CIRCLE, BROKEN, EMPTY, OUTSIDE = (
    "hidden",
    "left by other programs",
    "folders that this project wrote",
    "no pictures by their names",
    "links in a circle",
    "links, pipes and devices that are no files",
    "empty folders",
    "outside the classes' folders",
)


@dataclass
class Folder:
    """A folder with what counts in it: files that may be pictures, and folders that are not empty."""

    path: Path
    files: list[Path] = field(default_factory=list)
    folders: list[Folder] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.path.name

    def all_files(self) -> Iterator[Path]:
        """At any depth."""
        yield from self.files
        for folder in self.folders:
            yield from folder.all_files()


@dataclass(frozen=True)
class Layout:
    """The pictures of a folder.

    Attributes:
        classes: Their names, sorted.
        files: Path, split (train, val or test) and class's index of each file, sorted.
        has_splits: Whether folders' names say what is for which split.
        has_test: Whether they say what to test on, or all is.
        left_out: By reason, what is no data.
        notes: Sentences about how the names were understood.
    """

    classes: tuple[str, ...]
    files: tuple[tuple[Path, str, int], ...]
    has_splits: bool
    has_test: bool
    left_out: dict[str, list[Path]]
    notes: tuple[str, ...]


def layout(folder: Path, known: Sequence[str] | None = None) -> Layout:
    """What is in the folder, by its names alone.

    Args:
        known: Classes that a model has learnt and is to be tested on: some may be missing, and without splits all is
            for testing. None where a model is to be trained.

    Raises:
        InputError: it holds no folder for each of two classes, its names can be understood in several ways, or a class
            is not known.
    """
    return _Reader(folder, known).read()


def files_of(folder: Path) -> list[Path]:
    """The files at any depth that may be pictures, sorted.

    Raises:
        InputError: a folder may not be read.
    """
    reader = _Reader(folder, None)
    return sorted(reader._walk(folder, (os.path.realpath(folder),)).all_files())


class _Reader:
    def __init__(self, folder: Path, known: Sequence[str] | None) -> None:
        self.folder, self.known = folder, known
        self.left_out: dict[str, list[Path]] = {}
        self.notes: list[str] = []
        self.counted: set[Path] = set()  # files that a note says are left out

    def read(self) -> Layout:
        top = self._walk(self.folder, (os.path.realpath(self.folder),))
        base = self._inner(top)
        if base is not top:
            self.notes.append(f"the data set is in {self._name(base)}/")
        splits = self._splits(base) or self._splits_in_classes(base)
        has_splits, has_test = bool(splits), "test" in splits
        if not splits:
            splits = {"test" if self.known is not None else "train": self._classes(base)}
            has_test = self.known is not None
        used = {file for of_split in splits.values() for inside in of_split.values() for file in inside.all_files()}
        self._leave_out(OUTSIDE, *(file for file in top.all_files() if file not in used | self.counted))
        if self.known is not None:
            trained = splits.pop("train", {})  # another model's
            splits.setdefault("test", trained)
            has_test = True
        self.notes += self._deeper(splits)
        trained = splits.get("train", {})
        classes = tuple(self.known) if self.known is not None else tuple(sorted(trained))
        for classes_of_split in splits.values():
            for name, of_class in classes_of_split.items():
                if name not in classes:
                    have = "the model has" if self.known is not None else "the training folder has"
                    raise InputError(f"{of_class.path}: {have} no class {name}; move, rename or remove that folder")
        if self.known is None and len(classes) < 2:
            raise InputError(
                f"`dataset={str(self.folder)!r}`: a data set of your own is a folder with a folder of pictures for "
                "each class, at least two, or a folder with the four files of MNIST's format"
            )
        index = {name: number for number, name in enumerate(classes)}
        files = [
            (file, split, index[name])
            for split in ("train", "val", "test")
            for name, of_class in sorted(splits.get(split, {}).items())
            for file in sorted(of_class.all_files())
        ]
        return Layout(classes, tuple(files), has_splits, has_test, self.left_out, tuple(self.notes))

    def _name(self, folder: Folder) -> str:
        return folder.path.relative_to(self.folder).as_posix() if folder.path != self.folder else str(self.folder)

    def _leave_out(self, reason: str, *paths: Path) -> None:
        if paths:
            self.left_out.setdefault(reason, []).extend(paths)

    def _walk(self, path: Path, above: tuple[str, ...]) -> Folder:
        """Follows links, but into no folder that it is in already."""
        folder = Folder(path)
        try:
            entries = sorted(os.scandir(path), key=lambda entry: entry.name)
        except OSError as error:
            raise InputError(f"{path} cannot be read ({error.strerror}); get access to it, or remove it") from None
        for entry in entries:
            inside = path / entry.name
            if entry.name.startswith(".") or entry.name.casefold() in OF_TOOLS:
                reason = HIDDEN if entry.name.startswith(".") else LEFT
                is_folder = entry.is_dir(follow_symlinks=False)
                files = [Path(root, name) for root, _, names in os.walk(inside) for name in names]
                self._leave_out(reason, *(files if is_folder else [inside]))
            elif entry.is_symlink() and not inside.exists():  # of one that leads to itself, is_dir raises an error
                self._leave_out(BROKEN, inside)
            elif entry.is_dir():
                real = os.path.realpath(inside) if entry.is_symlink() else str(Path(above[-1], entry.name))
                if real in above:
                    self._leave_out(CIRCLE, inside)
                    continue
                if any(os.path.isfile(inside / mark) for mark in MARKS):  # noqa: PTH113, is_file fails on what is hidden
                    self._leave_out(OWN, inside)
                    continue
                deeper = self._walk(inside, (*above, real))
                if deeper.files or deeper.folders:
                    folder.folders.append(deeper)
                else:
                    self._leave_out(EMPTY, inside)
            elif entry.is_file():
                if inside.suffix.lower() in NO_PICTURES:
                    self._leave_out(BY_NAME, inside)
                else:
                    folder.files.append(inside)
            else:
                self._leave_out(BROKEN, inside)
        return folder

    def _inner(self, folder: Folder) -> Folder:
        """Looks through folders that hold nothing but one folder, which holds folders."""
        while len(folder.folders) == 1 and folder.folders[0].folders:
            only = folder.folders[0]
            if self.known is not None and only.name in self.known:
                break
            folder = only
        return folder

    def _holds_classes(self, folder: Folder) -> bool:
        return len(self._inner(folder).folders) > 1

    def _classes(self, folder: Folder) -> dict[str, Folder]:
        return {inside.name: inside for inside in folder.folders}

    def _splits(self, base: Folder) -> dict[str, dict[str, Folder]]:
        """Of each split the classes' folders; empty where the folders are classes."""
        named = self._named(base)
        others = [inside for split, inside in named if split is None]
        by_name = [(split, inside) for split, inside in named if split is not None]
        if not by_name:
            return {}
        labelled = [(split, self._inner(inside)) for split, inside in by_name if inside.folders]
        flat = [inside for _, inside in by_name if not inside.folders]
        learnt = {deeper.name for split, inside in labelled if split == "train" for deeper in inside.folders}
        known = learnt or set(self.known or ())
        for split, inside in list(labelled):
            if split != "train" and len(inside.folders) == 1 and inside.folders[0].name not in known:
                labelled.remove((split, inside))  # test/unknown/: without labels as well
                flat.append(inside)
        if not labelled and others:
            one = len(flat) == 1
            self.notes.append(
                f"{_listed(flat)} {'is a class' if one else 'are classes'} here, beside {_listed(others)}, for no "
                f"folder is in {'it' if one else 'them'}; a split's folder holds a folder for each class"
            )
            return {}
        splits = [split for split, _ in labelled]
        if len(set(splits)) < len(splits):
            raise InputError(
                f"{base.path} has {_listed([f for _, f in by_name])}, of which two would be the same split; rename "
                "them to train, val and test, or remove one"
            )
        if "train" not in splits and (self.known is None or not labelled):
            raise InputError(
                f"{base.path} has {_listed([f for _, f in by_name])} but no folder train with a folder of pictures for "
                "each class; put the training pictures into train/CLASS/, or rename what is a class"
            )
        sources = dict(labelled)
        found = {split: self._classes(inside) for split, inside in labelled}
        self._count(flat, "pictures in {} have no labels, so they are left out; predict.py takes them")
        self._count(
            others,
            "files in {} are left out: that is no split's name; rename a split's folder to train, val or test, and "
            "move a class's into those",
        )
        if "test" not in found and "val" in found:
            found["test"], sources["test"] = found.pop("val"), sources.pop("val")
        parts = [
            f"{self._name(sources[split])}/ for {purpose}"
            for split, purpose in (("train", "training"), ("val", "validation"), ("test", "testing"))
            if split in found
        ]
        self.notes.append(f"by their names: {', '.join(parts)}")
        return found

    def _count(self, folders: Sequence[Folder], note: str) -> None:
        """Notes how many files are left out in these folders, if there are any."""
        files = [file for folder in folders for file in folder.all_files()]
        if files:
            self.counted.update(files)
            self.notes.append(f"{len(files):,} {note.format(_listed(folders))}")

    def _named(self, base: Folder) -> list[tuple[str | None, Folder]]:
        """All folders with the split that each is for, by its whole name or, such as seg_train, by a word of it."""
        whole = [(SPLITS.get(inside.name.casefold()), inside) for inside in base.folders]
        taken = {split for split, inside in whole if inside.folders}
        by_word = [(split or self._by_word(inside.name, taken), inside) for split, inside in whole]
        halves = [inside for (split, _), (word, inside) in zip(whole, by_word, strict=True) if word and not split]
        holding = [inside for inside in halves if self._holds_classes(inside)]
        if "train" in taken or not halves:
            return by_word
        if not holding:
            one = len(halves) == 1
            self.notes.append(
                f"{_listed(halves)} {'is a class' if one else 'are classes'} here; a split's folder is called train, "
                "val or test and holds a folder for each class"
            )
            return whole
        splits = [inside for split, inside in by_word if split]
        trained = any(split == "train" and self._holds_classes(inside) for split, inside in by_word)
        if (not trained and self.known is None) or len(splits) == 1:
            raise InputError(
                f"{base.path} has {_listed(holding)}, by the name for a split and with folders of classes inside, but "
                f"not train and test; call the folders of splits train, val and test and leave nothing else in "
                f"{base.path}, or, where {holding[0].name}/ is a class, give it a name without such a word"
            )
        return by_word

    def _by_word(self, name: str, taken: set[str | None]) -> str | None:
        """The one split that a word of the name says, unless that is taken or a model knows a class of that name."""
        words = [word.casefold() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", name)]
        words += [word.removesuffix(ending) for word in words for ending in ("set", "data")]  # testset is one word
        splits = {SPLITS[word] for word in words if word in SPLITS}
        is_clear = len(splits) == 1 and not splits & taken and name not in (self.known or ())
        return splits.pop() if is_clear else None

    def _splits_in_classes(self, base: Folder) -> dict[str, dict[str, Folder]]:
        """Of each split the classes' folders, where each class has its own train and test."""
        self._check_all_divided(base)
        inside = [(of_class, folder) for of_class in base.folders for folder in of_class.folders]
        named = [(SPLITS.get(folder.name.casefold()), of_class, folder) for of_class, folder in inside]
        if not inside or any(split is None for split, _, _ in named) or any(f.files for f in base.folders):
            return {}
        found: dict[str, dict[str, Folder]] = {}
        for split, of_class, folder in named:
            assert split is not None
            if of_class.name in found.setdefault(split, {}):
                raise InputError(f"{of_class.path} has two folders for the same split; rename or remove one")
            found[split][of_class.name] = folder
        if "train" not in found and self.known is None:
            raise InputError(f"{base.path} has no training pictures in its classes' folders; add CLASS/train/")
        if "test" not in found and "val" in found:
            found["test"] = found.pop("val")
        names = sorted({folder.name for _, _, folder in named})
        self.notes.append(f"each class has its splits inside: {', '.join(names)}")
        return found

    def _check_all_divided(self, base: Folder) -> None:
        """Refuses classes of which some have train and another split inside, and others, or their pictures, do not."""
        splits = {
            of_class.name: [SPLITS.get(folder.name.casefold()) for folder in of_class.folders]
            for of_class in base.folders
        }
        divided = [f for f in base.folders if "train" in splits[f.name] and len({*splits[f.name]} - {None}) > 1]
        whole = [f for f in base.folders if f.files or None in splits[f.name]]
        if divided and whole:
            raise InputError(
                f"{base.path} has {_listed(divided)} with a folder for each split inside, but pictures of "
                f"{_listed(whole)} are in none of these; put all pictures into CLASS/train/ and CLASS/test/, or rename "
                "the folders inside, which are then learnt as their class"
            )

    def _deeper(self, splits: dict[str, dict[str, Folder]]) -> list[str]:
        inside = [
            (deeper, name) for of_split in splits.values() for name, f in of_split.items() for deeper in f.folders
        ]
        if not inside:
            return []
        count = sum(1 for deeper, _ in inside for _ in deeper.all_files())
        first, name = inside[0]
        return [
            f"{count:,} pictures are in folders inside a class's, such as {self._name(first)}/: they are of the class "
            f"{name}"
        ]


def _listed(folders: Sequence[Folder]) -> str:
    names = [f"{folder.name}/" for folder in folders]
    names = [*names[:5], f"{len(names) - 5} more"] if len(names) > 6 else names
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
