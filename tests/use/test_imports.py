"""A trained model is used without Lightning, and public names are found whatever was imported before."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

import PIL.Image
import pytest
from conftest import SCRIPTS, Patch

import logreg_lightning

UNUSED = {"lightning", "pytorch_lightning", "matplotlib", "scipy", "sklearn", "tensorboard", "timm", "torchmetrics"}
UNUSED |= {"torchvision"}
RUN_EACH = """
import contextlib, io, json, runpy, sys
for script, *words in json.loads(sys.argv[1]):
    sys.argv = [script, *words]
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):
        runpy.run_path(script, run_name="__main__")
print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""
USES = [["use.py"], ["predict.py", "last", "picture.png"], ["export.py", "last", "page.html"]]
USES += [[f"{name}.py", flag] for name in ("predict", "export", "evaluate") for flag in ("--help", "--wrong")]


def loaded_by(commands: list[list[str]]) -> tuple[set[str], str]:
    """The packages that a process loads which runs these scripts, and what it complains about."""
    paths = [[str(SCRIPTS / script) if script != "use.py" else script, *words] for script, *words in commands]
    command = [sys.executable, "-c", RUN_EACH, json.dumps(paths)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return set(done.stdout.split()), done.stderr


def test_what_uses_a_model_loads_no_lightning(run: Path) -> None:
    PIL.Image.new("L", (28, 28)).save("picture.png")
    use = "from logreg_lightning import load; print(load('last').predict_proba('picture.png'))"
    Path("use.py").write_text(use, encoding="utf-8")
    loaded, said = loaded_by(USES)
    assert {"torch", "logreg_lightning"} <= loaded and not loaded & UNUSED, said
    assert said.count("unrecognized arguments: --wrong") == 3 and Path("page.html").is_file(), said


@pytest.mark.slow
def test_help_loads_nothing_that_it_does_not_use() -> None:
    loaded, _ = loaded_by([["fit.py", "--help"]])
    assert "lightning" in loaded
    # torchmetrics, and so `import lightning`, brings matplotlib and torchvision.
    assert not loaded & {"tensorboard", "sklearn", "onnx", "pandas"}


@pytest.mark.parametrize("module_first", [True, False])
def test_fit_and_sweep_are_functions_whatever_was_imported_before(monkeypatch: Patch, module_first: bool) -> None:
    for name in ("fit", "sweep"):
        monkeypatch.delattr(logreg_lightning, name)
        monkeypatch.delitem(sys.modules, f"logreg_lightning.{name}")
    for name in ("fit", "sweep") if module_first else ():
        importlib.import_module(f"logreg_lightning.{name}")
    from logreg_lightning import fit, sweep
    from logreg_lightning.fit import main
    from logreg_lightning.sweep import promote

    assert [fit.__module__, sweep.__module__] == [main.__module__, promote.__module__]
    assert [logreg_lightning.fit, logreg_lightning.sweep] == [fit, sweep]


def test_public_names_are_listed_and_no_others_found() -> None:
    assert set(logreg_lightning.__all__) <= set(dir(logreg_lightning))
    assert all(hasattr(logreg_lightning, name) for name in logreg_lightning.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'lgorithm'"):
        _ = logreg_lightning.lgorithm
