"""What callers and ops use: clients over the generated stubs. Must not know the server or the worker."""
