"""Loads GNU OpenMP for LightGBM where the system has none.

Knows where set-up puts its private copy of libgomp; must not know LightGBM. `load_openmp()` comes before the first
`import lightgbm` of a process.
"""

import ctypes
import sys
from pathlib import Path


def load_openmp() -> None:
    """Makes `libgomp.so.1` known to what is loaded later; where set-up made no copy, the system has its own."""
    private_copy = Path(sys.prefix) / "lib" / "libgomp.so.1"
    if private_copy.exists():
        ctypes.CDLL(str(private_copy), mode=ctypes.RTLD_GLOBAL)
