"""The edge: proto <-> domain, and nothing else. One servicer a file; every call passes `guard.py`."""
