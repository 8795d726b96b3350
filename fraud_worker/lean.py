"""LightGBM without what it imports only because it is installed: three quarters of the time that its import takes.

For processes that predict and nothing else. Must come before their first `import lightgbm`; must not know models.
"""

from __future__ import annotations

import sys
from typing import Final

_NOT_NEEDED: Final = ("dask", "matplotlib", "pandas", "pyarrow", "sklearn")
"""Front ends for training and plots, and kinds of tables that rows never come as."""


def leave_out_front_ends() -> None:
    """From now on to import one of them is an ImportError, which LightGBM takes for "not installed"."""
    for name in _NOT_NEEDED:
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]
