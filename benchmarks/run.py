"""Measures this project against the tutorial's loop, stock Lightning, a bare loop, scikit-learn and tuning by hand.

python benchmarks/run.py
python benchmarks/run.py --only recipe --repeats 9 --json_
python benchmarks/run.py --write docs/performance.md
python benchmarks/run.py --only gpu --write docs/gpu.md

Every figure comes from a fresh process; those that are compared take turns. Only `gpu` needs a CUDA device.
"""

import argparse
import importlib
import json
import sys
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[1])  # where the package `benchmarks` lies

import torch  # noqa: E402
from torchvision.datasets import MNIST  # noqa: E402

from benchmarks.measure import machine  # noqa: E402
from benchmarks.report import paste  # noqa: E402

ON_CPU = [
    "recipe",
    "to_92",
    "command",
    "size",
    "evaluate",
    "threads",
    "step",
    "images",
    "features",
    "backbones",
    "sweep",
]
NO_GPU = "torch finds no CUDA device here, so there is nothing to measure."


def main(argv: list[str] | None = None) -> None:
    """Measures the tables that are wanted, prints them, and pastes them into a page."""
    parser = argparse.ArgumentParser(description="Measures speed, and accuracy without tuning.", allow_abbrev=False)
    add = parser.add_argument
    switch: dict[str, Any] = {"type": json.loads, "choices": (True, False), "nargs": "?", "const": True}
    add("--root", default="data", help="folder with MNIST; the large data sets are made in it, 7 GB, once")
    add("--only", choices=[*ON_CPU, "gpu"], help="one table; by default all, gpu only where there is one")
    add("--repeats", type=int, default=5, help="how often each is measured; images at most three times, one seed each")
    add("--quick", **switch, default=False, metavar="true", help="a few steps of everything, to see that it works")
    add("--json_", **switch, default=False, metavar="true", help="print all figures for programs")
    add("--write", type=Path, help="a Markdown page to paste the tables into, between the comments that name them")
    given = parser.parse_args(argv)
    if given.repeats < 1:
        parser.error(f"argument --repeats: must be at least 1, not {given.repeats}")
    if given.write and not given.write.is_file():
        parser.error(f"argument --write: there is no file {given.write}")
    gpu = torch.cuda.is_available()
    if given.only == "gpu" and not gpu:
        print(NO_GPU)
        return
    names, root = [given.only] if given.only else ON_CPU + ["gpu"] * gpu, str(Path(given.root).resolve())
    if {*names} - {"step", "features", "backbones"}:
        try:
            MNIST(root, download=True)
        except (OSError, RuntimeError) as error:
            parser.error(f"argument --root: MNIST is not in {root} and cannot be downloaded ({error})")
    modules = {name: importlib.import_module(f"benchmarks.{name}") for name in names}
    repeats = 1 if given.quick else given.repeats
    measured = {name: module.measure(root, repeats, given.quick) for name, module in modules.items()}
    if given.json_:
        print(json.dumps({"machine": machine(), **measured}, indent=2))
        return
    tables = {name: module.table(measured[name]) for name, module in modules.items()}
    print("\n\n".join([machine(), *tables.values()]))
    if given.write:
        page = paste(given.write.read_text(encoding="utf-8"), machine(), tables)
        given.write.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
