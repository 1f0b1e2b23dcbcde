"""Damaged files of every kind that is read here: each is read, or refused in a sentence; none hangs.

make fuzz tries for an hour; `pytest tests/promises/test_fuzz.py --fuzz-seed 123` tries the same files again.
"""

from __future__ import annotations

import copy
import functools
import io
import math
import random
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any

import numpy as np
import PIL.features
import PIL.Image
import pytest
import torch
from conftest import contents, ready, write_features, write_idx, write_pictures

from logreg_lightning import ImageDataModule, fit, load
from logreg_lightning.data import idx, npy
from logreg_lightning.data.pictures import eight_bits, read_picture, to_pixels
from logreg_lightning.errors import InputError, RunError
from logreg_lightning.fit import main
from logreg_lightning.runtime import runs

pytestmark = pytest.mark.slow

LONGEST = 60
"""Seconds after which reading a small file counts as hanging."""


def damaged(content: bytes, chance: random.Random) -> bytes:
    """The bytes with one to three things wrong that disks, networks and people do to files."""
    data = bytearray(content)
    for _ in range(chance.randint(1, 3)):
        begin = (
            min(int(chance.expovariate(1 / 40)), len(data)) if chance.random() < 0.5 else chance.randint(0, len(data))
        )
        end = min(len(data), begin + int(2 ** chance.uniform(0, 12)))
        match chance.randrange(7):
            case 0:
                del data[begin:]
            case 1:
                del data[begin:end]
            case 2:
                data[begin:end] = bytes(end - begin)
            case 3:
                data[begin:end] = chance.randbytes(end - begin)
            case 4:
                data[begin:begin] = data[begin:end]
            case 5 if begin < len(data):
                data[begin] ^= 1 << chance.randrange(8)
            case _:
                data[begin : begin + 4] = chance.choice(
                    [b"\xff" * 4, b"\x7f\xff\xff\xff", b"\0\0\0\1", b"NaN ", b"1e99"]
                )
    return bytes(data)


ODD: list[Any] = [None, True, -1, 0, 1, 7, 0.5, math.nan, math.inf, 2**70, "", "much", [], [3], {}, {"a": 1}]


def places(content: Any) -> Iterator[tuple[Any, Any]]:
    """Each dictionary and list inside with each of its keys, however deep."""
    keys = content if isinstance(content, dict) else range(len(content)) if isinstance(content, list) else ()
    for key in keys:
        yield content, key
        yield from places(content[key])


def odd_tensor(tensor: torch.Tensor, chance: random.Random) -> torch.Tensor:
    """The tensor with other numbers, of another type or of another shape."""
    changed = tensor.clone()
    match chance.randrange(7):
        case 0:
            return torch.zeros_like(tensor)
        case 1:
            return tensor.double() if chance.random() < 0.5 else tensor.long()
        case 2:
            return tensor.flatten()[: chance.randrange(tensor.numel() + 1)]
        case 3:
            return tensor.new_zeros(()).expand(10**6, 10**6)
        case 4:
            return tensor.to_sparse() if tensor.ndim else tensor.to("meta")
        case 5 if tensor.ndim:
            return tensor.unsqueeze(0) if chance.random() < 0.5 else tensor.T.contiguous()
    at = chance.randrange(max(1, tensor.numel()))
    changed.flatten()[at : at + 1] = chance.choice([math.nan, -math.inf, math.inf, -1.0, 0.0, 3e38])
    return changed


def tampered(content: bytes, chance: random.Random) -> bytes:
    """The checkpoint with one or two things in it changed or missing, saved again as torch saves it."""
    checkpoint = torch.load(io.BytesIO(content), weights_only=True)
    for _ in range(chance.randint(1, 2)):
        # Most keys are Lightning's counters: each of the others is as likely to be hit as all of these.
        below = chance.choice([checkpoint, *(part for part in checkpoint.values() if isinstance(part, dict))])
        inside, key = chance.choice(list(places(below)) or [(checkpoint, "format")])
        value = inside[key]
        if chance.random() < 0.15:
            del inside[key]
        elif isinstance(value, torch.Tensor) and chance.random() < 0.8:
            inside[key] = odd_tensor(value, chance)
        elif isinstance(value, int | float) and chance.random() < 0.5:
            inside[key] = chance.choice([-value, value + 1, value * 2, value * 1e30, float(value), str(value)])
        else:
            inside[key] = copy.deepcopy(chance.choice(ODD))
    saved = io.BytesIO()
    torch.save(checkpoint, saved)
    return saved.getvalue()


# Each writes good files, and yields one of them to damage and what reads it.
Reader = tuple[Path, Callable[[], object]]


def picture_files() -> Iterator[Reader]:
    grey = PIL.Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 36), np.uint8))
    exif = PIL.Image.Exif()
    exif.update({0x0112: 6, 0x010F: "a camera", 0x011A: 72.0})
    modes = {"L": grey, "RGB": grey.convert("RGB"), "P": grey.convert("P"), "RGBA": grey.convert("RGBA")}
    modes |= {"I;16": PIL.Image.fromarray(np.asarray(grey).astype(np.uint16) * 257), "1": grey.convert("1")}
    PIL.Image.init()
    for extension, kind in sorted(PIL.Image.registered_extensions().items()):
        for mode, picture in modes.items():
            path = Path(f"{mode.replace(';', '')}{extension}")
            if kind in PIL.Image.SAVE and kind not in ("PDF", "EPS", "PALM", "XBM"):
                with suppress(OSError, ValueError, KeyError, TypeError):
                    picture.save(
                        path, kind, **{"exif": exif} if kind in ("JPEG", "PNG", "WEBP", "AVIF", "TIFF") else {}
                    )
                    read_picture(path)  # what Pillow writes and cannot read teaches nothing
                    yield path, lambda path=path: _read_picture(path)  # type: ignore[misc]


def _read_picture(path: Path) -> None:
    with suppress(OSError):
        to_pixels(eight_bits(read_picture(path), None), (3, 8, 8))


def idx_files() -> Iterator[Reader]:
    for packed in (False, True):
        folder = Path(f"idx{packed}")
        write_idx(folder, packed)

        def read(folder: Path = folder) -> None:
            shutil.rmtree("unpacked", ignore_errors=True)
            Path("unpacked").mkdir()
            try:
                idx.prepare(folder, Path("unpacked"))
                idx.load(folder, Path("unpacked"))
            finally:
                assert not [path for path in contents(Path("unpacked")) if path.suffix == ".partial"]

        yield from ((path, read) for path in sorted(folder.iterdir()))


def npy_files() -> Iterator[Reader]:
    write_features(Path("features"))
    (Path("features") / "classes.txt").write_text("yes\nno\n", "utf-8")
    yield from ((path, lambda: npy.load(Path("features"))) for path in sorted(Path("features").iterdir()))


def checkpoint_files() -> Iterator[Reader]:
    main(["--data.dataset=digits", "--max_epochs=1", "--pictures=false", "--accelerator=cpu"])
    kept, folder = Path("kept"), runs.LOGS / "version_0"
    shutil.copytree(folder, kept)
    last = kept / "checkpoints/last.ckpt"
    begun = learnt(last)

    def use(path: Path) -> None:
        found = load(path).predict_proba(PIL.Image.linear_gradient("L").resize((8, 8)))
        assert found.shape == (1, 10) and found.sum() == pytest.approx(1, abs=1e-5)

    def resume(path: Path) -> None:
        shutil.rmtree(folder)
        shutil.copytree(kept, folder)
        shutil.copyfile(path, folder / last.relative_to(kept))
        before, is_begun_so = contents(folder), learnt(path) == begun
        try:
            run = fit("digits", resume=folder, max_epochs=2, accelerator="cpu", pictures=False, verbose=False)
        except InputError as error:
            assert str(folder) in str(error) and "\n" not in str(error) and contents(folder) == before
            raise
        except RunError as error:
            assert "training diverged" in str(error) and not is_begun_so
            return
        assert run.results["steps"] == 100 and math.isfinite(run.results["test/loss"])
        # Whatever else was changed: from these weights and this momentum the run ends as it does, or not at all.
        ends.setdefault(is_begun_so, learnt(folder / last.relative_to(kept)))
        assert not is_begun_so or ends[True] == learnt(folder / last.relative_to(kept))

    ends: dict[bool, Any] = {}
    for path in (last, last.with_name("best.ckpt")):
        yield from ((path, functools.partial(read, path)) for read in (use, resume))


def learnt(path: Path) -> list[Any]:
    """Weights and momentum in a checkpoint; nothing where it cannot be read."""
    try:
        checkpoint = torch.load(path, weights_only=True)
        momentum = [one["momentum_buffer"] for one in checkpoint["optimizer_states"][0]["state"].values()]
        return [value.tolist() for value in (*checkpoint["state_dict"].values(), *momentum) if value.numel() < 10**6]
    except Exception:
        return []


def run_files() -> Iterator[Reader]:
    main(["--data.dataset=digits", "--max_epochs=1", "--pictures=false", "--accelerator=cpu"])
    folder = runs.LOGS / "version_0"
    yield folder / "results.json", lambda: runs.read_results(folder)
    yield folder / "config.yaml", lambda: runs.read_config(folder)
    yield folder / "trained_on.npz", lambda: runs.read_trained_on(folder)


def settings_files() -> Iterator[Reader]:
    path = Path("settings.yaml")
    path.write_text("seed: 3\nmax_epochs: 2\ndata:\n  dataset: digits\n  val_size: 0.2\nmodel:\n  lr: 0.1\n", "utf-8")

    def read() -> None:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()) as said, pytest.raises(SystemExit) as end:
            main(["--config", str(path), "--print_config"])
        assert end.value.code in (None, 0) or (end.value.code == 2 and len(said.getvalue().splitlines()) == 1)

    yield path, read


def kept_files() -> Iterator[Reader]:
    write_pictures(Path("pets"), per_class=8)
    expected = ready(ImageDataModule("pets", image_size=6)).train_dataloader().images
    kept = [path for path in sorted(contents(Path("data"))) if path.stat().st_size]
    assert kept

    def read() -> None:
        found = ready(ImageDataModule("pets", image_size=6)).train_dataloader().images
        assert torch.equal(found.pixels, expected.pixels) and torch.equal(found.labels, expected.labels)

    yield from ((path, read) for path in kept)


@contextmanager
def limited() -> Iterator[None]:
    """What takes longer than `LONGEST` fails."""

    def fail(*_: Any) -> None:
        raise TimeoutError(f"still reading after {LONGEST} seconds")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(LONGEST)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


KINDS = [picture_files, idx_files, npy_files, checkpoint_files, run_files, settings_files, kept_files]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.filterwarnings("ignore")  # of a damaged file Pillow and NumPy may say what they like
def test_damaged_files_are_read_or_refused(
    kind: Callable[[], Iterator[Reader]], workdir: Path, request: pytest.FixtureRequest
) -> None:
    seed, seconds = (request.config.getoption(f"--fuzz-{what}") for what in ("seed", "seconds"))
    readers = list(kind())
    good = {path: path.read_bytes() for path, _ in readers}
    for _, read in readers:
        read()
    can_alarm = hasattr(signal, "SIGALRM") and threading.current_thread() is threading.main_thread()
    limit: Callable[[], AbstractContextManager[None]] = limited if can_alarm else nullcontext
    end, number = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        chance = random.Random(f"{seed} {number}")
        path, read = readers[number % len(readers)]
        for whole, content in good.items():
            if whole == path or number % 50 == 0:
                whole.write_bytes(content)
        damage = tampered if path.suffix == ".ckpt" and chance.random() < 0.8 else damaged
        path.write_bytes(damage(good[path], chance))
        try:
            with limit(), suppress(InputError):
                read()
        except Exception as error:
            raise AssertionError(f"--fuzz-seed {seed}, number {number}: {path.resolve()}") from error
        path.write_bytes(good[path])
        number += 1
    assert number
