"""The committed stubs are those of the committed protos."""

import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]


def test_stubs_do_not_drift() -> None:
    """Generating the stubs and the contract's descriptor anew gives what is committed."""
    command = [sys.executable, str(PROJECT / "tools" / "generate-protos"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
