"""Trains many settings at once and makes the best one a run of its own.

python scripts/sweep.py --model.lr 0.01,0.03,0.1 --model.weight_decay 0,1e-3,1e-1 --model.momentum 0,0.9
python scripts/sweep.py --random 50 --model.lr 1e-3..1 --model.weight_decay 1e-4..1
python scripts/sweep.py --promote 17 lightning_logs/sweep_0
python scripts/sweep.py --resume last
"""

import signal

signal.signal(signal.SIGINT, signal.SIG_DFL)  # outside the training loop, which saves first, Ctrl-C just ends

from logreg_lightning.__main__ import run  # noqa: E402

if __name__ == "__main__":
    run("sweep")
