"""Threads of one process that train, load and predict at the same time: each result is the one that it has alone."""

from __future__ import annotations

import os
import signal
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Patch, not_on_windows, ready

from logreg_lightning import ImageDataModule, LogisticRegression, fit, load, sweep
from logreg_lightning.features.backbones import exact
from logreg_lightning.runtime import threads
from logreg_lightning.runtime.threads import alone, drawing
from logreg_lightning.training import validation
from logreg_lightning.training.experiment import Experiment
from logreg_lightning.use.evaluate import evaluate

SETTINGS: dict[str, Any] = {"max_steps": 20, "pictures": False, "verbose": False}


def trained(seed: int) -> tuple[float, list[float]]:
    run = fit("digits", seed=seed, standardize=False, lr=0.1, **SETTINGS)
    return run.results["test/loss"], run.model.linear.weight.flatten().tolist()


def swept(seed: int) -> list[dict[str, Any]]:
    return sweep("digits", seed=seed, lr=[0.1, 0.2], **SETTINGS).settings


class Announced:
    """A lock that calls something before a thread waits for it."""

    def __init__(self, lock: Any, announce: Callable[[], object]) -> None:
        self.lock, self.announce = lock, announce

    def __enter__(self) -> None:
        self.announce()
        self.lock.acquire()

    def __exit__(self, *_: object) -> None:
        self.lock.release()


def together(*calls: Callable[[], Any]) -> list[Any]:
    """What each of these returns, all begun at once."""
    start = threading.Barrier(len(calls))

    def call(function: Callable[[], Any]) -> Any:
        start.wait(60)
        return function()

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(call, calls))


def process() -> list[Any]:
    numbers = torch.get_rng_state().tolist(), torch.get_num_threads()
    return [dict(os.environ), numbers, list(warnings.filters), torch.backends.cudnn.allow_tf32]


def test_fits_and_sweeps_in_threads_give_each_its_own_result(workdir: Path) -> None:
    alone_ = [trained(0), trained(1), swept(0), swept(1)]
    before = process()
    found = together(lambda: trained(0), lambda: trained(1), lambda: swept(0), lambda: swept(1), lambda: trained(0))
    assert found == [*alone_, alone_[0]]
    assert process() == before
    assert alone_[0] != alone_[1]


def test_what_is_loaded_and_asked_while_another_thread_trains_is_right(workdir: Path) -> None:
    once = trained(0)
    images = torch.randint(0, 256, (20, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    data = ready(ImageDataModule("digits"))
    expected = load("lightning_logs/version_0").predict_proba(images)
    scores = evaluate(LogisticRegression.load("lightning_logs/version_0"), data, "test")[0]
    done = threading.Event()

    def ask() -> int:
        asked = 0
        while not done.is_set() or not asked:
            model = LogisticRegression.load("lightning_logs/version_0")
            assert torch.equal(load("lightning_logs/version_0").predict_proba(images), expected)
            assert torch.equal(model.classifier().as_linear()(images.flatten(1) / 255).softmax(1), expected)
            assert evaluate(model, data, "test")[0] == scores
            asked += 1
        return asked

    def train() -> list[tuple[float, list[float]]]:
        try:
            return [trained(0) for _ in range(5)]
        finally:
            done.set()

    found, asked = together(train, ask)
    assert found == [once] * 5 and asked > 0


def test_first_weights_do_not_depend_on_what_other_threads_draw(workdir: Path, monkeypatch: Patch) -> None:
    once, new_model = trained(0), Experiment.new_model

    def late(self: Experiment, **changes: Any) -> LogisticRegression:
        torch.rand(7)
        return new_model(self, **changes)

    monkeypatch.setattr(Experiment, "new_model", late)
    assert trained(0) == once


def test_a_model_that_is_loaded_waits_for_weights_that_are_drawn(workdir: Path, monkeypatch: Patch) -> None:
    trained(0)
    with ThreadPoolExecutor(1) as pool:
        with drawing:
            before, asked = torch.get_rng_state(), threading.Event()
            monkeypatch.setattr(validation, "drawing", Announced(drawing, asked.set))
            loading = pool.submit(LogisticRegression.load, "last")
            assert asked.wait(60) and not loading.done()
            assert torch.equal(torch.get_rng_state(), before)
        assert loading.result(60).class_names == tuple("0123456789")


def test_a_layer_of_a_classifiers_weights_draws_nothing(workdir: Path) -> None:
    trained(0)
    before = torch.get_rng_state()
    load("last").as_linear()
    assert torch.equal(torch.get_rng_state(), before)


@not_on_windows("nobody sends oneself Ctrl-C")
def test_ctrl_c_ends_a_wait(monkeypatch: Patch) -> None:
    held, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with alone():
            held.set()
            leave.wait(60)

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait(60)
    interrupt = threading.Thread(target=os.kill, args=(os.getpid(), signal.SIGINT))
    monkeypatch.setattr(threads, "_one_of", Announced(threads._one_of, interrupt.start))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            fit("digits", **SETTINGS)
        assert holder.is_alive()
    finally:
        signal.signal(signal.SIGINT, before)
        leave.set()
        holder.join()
    monkeypatch.undo()
    with alone():
        pass


def test_exact_ends_with_the_last_thread_that_entered_it() -> None:
    before = torch.backends.cudnn.allow_tf32
    first, second = exact(), exact()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.backends.cudnn, "allow_tf32", True)
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        assert not torch.backends.cudnn.allow_tf32
        second.__exit__(None, None, None)
        assert torch.backends.cudnn.allow_tf32
    assert torch.backends.cudnn.allow_tf32 == before
