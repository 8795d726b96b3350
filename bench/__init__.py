"""Reproducible measurements of the whole service: `python -m bench` prints one JSON line a figure.

May import everything, for it only measures; nothing imports it. Rates of a shared machine are noisy, so what is
compared is measured in turns within one run, and the medians are compared.
"""

import os

# pgbench is started while gRPC is in use. Read when grpc is imported; the processes of the service inherit it.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
