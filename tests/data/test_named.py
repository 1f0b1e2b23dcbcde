"""Files become images and labels, or one sentence; the download is a real one, from a server on loopback."""

from __future__ import annotations

import functools
import gzip
import hashlib
import http.server
import math
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import NAMES, Capsys, Patch, fit, idx, not_on_windows, refused, small_mnist, weights_of, write_idx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torchvision.datasets import MNIST

from logreg_lightning.data import idx as idx_files
from logreg_lightning.data import named
from logreg_lightning.data.idx import read_idx
from logreg_lightning.errors import InputError


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None: ...


@pytest.fixture
def mirrors(tmp_path: Path, monkeypatch: Patch) -> Iterator[tuple[Path, Path]]:
    """Folders of two mirrors with whole files; a third mirror, the first one asked, is dead."""
    files = {f"{name}.gz": gzip.compress(content) for name, content in small_mnist().items()}
    servers, folders = [], (tmp_path / "one", tmp_path / "two")
    for folder in folders:
        folder.mkdir()
        for name, content in files.items():
            (folder / name).write_bytes(content)
        handler = functools.partial(_Quiet, directory=str(folder))
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        servers.append(server)
    dead = http.server.HTTPServer(("127.0.0.1", 0), _Quiet)
    dead.server_close()
    urls = [f"http://127.0.0.1:{server.server_address[1]}/" for server in (dead, *servers)]
    monkeypatch.setattr(MNIST, "mirrors", urls)
    monkeypatch.setattr(MNIST, "resources", [(f"{n}.gz", hashlib.md5(files[f"{n}.gz"]).hexdigest()) for n in NAMES])
    yield folders
    for server in servers:
        server.shutdown()
        server.server_close()


def test_download_goes_past_a_dead_mirror_and_a_wrong_byte(mirrors: tuple[Path, Path], tmp_path: Path) -> None:
    damaged = mirrors[0] / f"{NAMES[1]}.gz"
    content = bytearray(damaged.read_bytes())
    content[20] ^= 1
    damaged.write_bytes(content)
    named.prepare("mnist", tmp_path / "data")
    raw = tmp_path / "data/MNIST/raw"
    assert {name: (raw / name).read_bytes() for name in NAMES} == small_mnist()
    loaded = named.load("mnist", tmp_path / "data")
    expected = MNIST(tmp_path / "data", train=True)  # torchvision's own reader is the oracle
    assert torch.equal(loaded.train.pixels[:, 0], expected.data)
    assert torch.equal(loaded.train.labels, expected.targets)
    assert (len(loaded.test), loaded.image_shape) == (100, (1, 28, 28))


@not_on_windows("a file's mode denies nobody to read it")
def test_downloaded_files_have_the_modes_that_the_umask_says(mirrors: tuple[Path, Path], tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        named.prepare("mnist", tmp_path / "data")
    finally:
        os.umask(before)
    for path in [tmp_path / "data", *(tmp_path / "data").rglob("*")]:
        assert path.stat().st_mode & 0o777 == (0o755 if path.is_dir() else 0o644), path


def test_several_at_once_download_once(mirrors: tuple[Path, Path], tmp_path: Path, monkeypatch: Patch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(_Quiet, "log_message", lambda self, *_: asked.append(self.path))
    named.prepare("mnist", tmp_path / "alone")
    alone, asked[:] = asked.copy(), []
    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(named.prepare, "mnist", tmp_path / "data") for _ in range(4)]:
            done.result()
    assert sorted(asked) == sorted(alone)
    assert {name: (tmp_path / "data/MNIST/raw" / name).read_bytes() for name in NAMES} == small_mnist()


def test_download_that_fails_everywhere_leaves_nothing(mirrors: tuple[Path, Path], tmp_path: Path) -> None:
    for folder in mirrors:
        (folder / f"{NAMES[3]}.gz").write_bytes(b"not the file")
    with pytest.raises(InputError, match=r"mnist cannot be downloaded.*Put its files.*`dataset='digits'`"):
        named.prepare("mnist", tmp_path / "data")
    assert list((tmp_path / "data/MNIST/raw").iterdir()) == []


def test_files_put_by_hand_need_no_network(mirrors: tuple[Path, Path], tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.setattr(MNIST, "mirrors", MNIST.mirrors[:1])
    raw = tmp_path / "data/MNIST/raw"
    raw.mkdir(parents=True)
    for file in mirrors[0].iterdir():
        (raw / file.name).write_bytes(file.read_bytes())
    named.prepare("mnist", tmp_path / "data")
    assert {name: (raw / name).read_bytes() for name in NAMES} == small_mnist()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not an IDX file"),
        (b"\x89PNG\r\n", "not an IDX file"),
        (idx(np.zeros((2, 3, 3)))[:9], "cut short inside its header"),
        (idx(np.zeros((2, 3, 3)))[:-1], "33 bytes where its header promises 34"),
        (idx(np.zeros((2, 3, 3))) + b"x", "35 bytes where its header promises 34"),
        (b"\0\0\x0d\x03" + idx(np.zeros((2, 3, 3)))[4:], "type 0x0d"),
        (idx(np.zeros((0, 3, 3))), "no values"),
    ],
)
def test_a_damaged_idx_file_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "images"
    file.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        read_idx(file)
    assert str(file) in str(caught.value)


@given(data=st.data())
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_are_right_values_or_refused(tmp_path: Path, data: st.DataObject) -> None:
    shape = data.draw(st.lists(st.integers(0, 4), max_size=4))
    header = bytes([0, 0, 8, len(shape)]) + np.array(shape, ">u4").tobytes()
    content = data.draw(st.one_of(st.binary(max_size=40), st.binary(max_size=40).map(lambda rest: header + rest)))
    file = tmp_path / "any"
    file.write_bytes(content)
    try:
        values = read_idx(file)
    except InputError as error:
        assert str(file) in str(error) and "\n" not in str(error)
    else:
        size = 4 if content[2] == 0x0C else 1
        offset = 4 + 4 * content[3]
        assert content[offset:] == values.numpy().astype(">i4" if size == 4 else np.uint8).tobytes()
        assert np.array(values.shape, ">u4").tobytes() == content[4:offset]


def test_digits_are_scikit_learns() -> None:
    from sklearn.datasets import load_digits

    data = named.load("digits", Path("nowhere"))
    assert len(data.train) + len(data.test) == 1797
    everything = torch.cat([data.train.pixels, data.test.pixels]).flatten(1)
    expected = torch.from_numpy(load_digits().data).mul(255 / 16).round()
    assert sorted(map(tuple, everything.tolist())) == sorted(map(tuple, expected.tolist()))


@pytest.mark.parametrize("packed", [False, True])
def test_a_folder_of_ones_own(workdir: Path, packed: bool) -> None:
    write_idx(Path("mine"), packed)
    before = sorted(Path("mine").iterdir())
    run = fit("--data.dataset=mine", "--max_epochs=2", "--data.batch_size=8")
    weight = weights_of(run)["standardized_linear.weight"]
    assert weight.shape == (3, 5 * 9)
    assert sorted(Path("mine").iterdir()) == before
    fit("--resume=last", "--max_epochs=3")


def test_packed_files_are_unpacked_again_when_they_change(tmp_path: Path) -> None:
    for labels in (0, 1):
        write_idx(tmp_path / "mine", True, labels)
        for file in (tmp_path / "mine").iterdir():
            os.utime(file, (labels + 1_900_000_000, labels + 1_900_000_000))
        idx_files.prepare(tmp_path / "mine", tmp_path / "data")
        loaded = idx_files.load(tmp_path / "mine", tmp_path / "data")
        write_idx(tmp_path / "raw", False, labels)
        assert torch.equal(loaded.train.pixels, idx_files.load(tmp_path / "raw", tmp_path).train.pixels)
        del loaded  # Windows replaces no file that is mapped


@not_on_windows("a file has no holes unless a program asks for them")
def test_images_stay_in_their_file(tmp_path: Path) -> None:
    """Forty million images, 31 GB, mostly holes: more than this machine's memory, there at once."""
    write_idx(tmp_path / "mine", False)
    count = 40_000_000
    for name, shape in ((NAMES[0], (count, 28, 28)), (NAMES[1], (count,)), (NAMES[2], (1, 28, 28)), (NAMES[3], (1,))):
        header = bytes([0, 0, 8, len(shape)]) + np.array(shape, ">u4").tobytes()
        with (tmp_path / "mine" / name).open("wb") as file:
            file.write(header)
            file.truncate(len(header) + math.prod(shape))
    loaded = idx_files.load(tmp_path / "mine", tmp_path)
    assert loaded.train.pixels.shape == (count, 1, 28, 28)
    pixels, labels = loaded.train.take(torch.tensor([0, count - 1], dtype=torch.int32))
    assert pixels.shape == (2, 1, 28, 28) and labels.dtype == torch.int64


def test_a_folder_that_lacks_a_file_or_has_a_damaged_one(workdir: Path, capsys: Capsys) -> None:
    write_idx(Path("mine"), True)
    whole = (Path("mine") / f"{NAMES[0]}.gz").read_bytes()
    for content in (whole[:-9], b"not gzip"):
        (Path("mine") / f"{NAMES[0]}.gz").write_bytes(content)
        refused(["--data.dataset=mine"], f"{Path('mine', NAMES[0])}.gz is not a complete gzip file", capsys)
    (Path("mine") / f"{NAMES[0]}.gz").unlink()
    refused(["--data.dataset=mine"], f"{NAMES[0]} or {NAMES[0]}.gz is missing", capsys)
