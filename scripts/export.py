"""Writes a trained model as an ONNX file, or as a page to draw a digit on.

python scripts/export.py lightning_logs/version_0 model.onnx
python scripts/export.py lightning_logs/version_0 page.html
"""

import signal

signal.signal(signal.SIGINT, signal.SIG_DFL)

from logreg_lightning.__main__ import run  # noqa: E402

if __name__ == "__main__":
    run("export")
