"""Shows the metrics of a trained model.

python scripts/evaluate.py lightning_logs/version_0
python scripts/evaluate.py lightning_logs/version_0 --split val --json
"""

import signal

signal.signal(signal.SIGINT, signal.SIG_DFL)

from logreg_lightning.__main__ import run  # noqa: E402

if __name__ == "__main__":
    run("evaluate")
