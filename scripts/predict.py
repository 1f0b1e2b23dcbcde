"""Says what pictures show.

python scripts/predict.py lightning_logs/version_0 my.png
python scripts/predict.py lightning_logs/version_0 photos --digit --format csv --top 3
"""

import signal

signal.signal(signal.SIGINT, signal.SIG_DFL)

from logreg_lightning.__main__ import run  # noqa: E402

if __name__ == "__main__":
    run("predict")
