"""The workflow for the usual host is one that the host would run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_it_is_a_valid_workflow() -> None:
    workflow = Path(__file__).parents[2] / ".github" / "workflows" / "test.yml"
    # The schema comes with check-jsonschema, so nothing is fetched.
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows", str(workflow)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
