"""Trains logistic regression on images.

python scripts/fit.py
python scripts/fit.py --accelerator gpu
python scripts/fit.py --config configs/article.yaml
python scripts/fit.py --data.dataset digits --model.lr 0.05 --max_epochs 5
python scripts/fit.py --resume last
"""

import signal

signal.signal(signal.SIGINT, signal.SIG_DFL)  # outside the training loop, which saves first, Ctrl-C just ends

from logreg_lightning.__main__ import run  # noqa: E402

if __name__ == "__main__":
    run("fit")
