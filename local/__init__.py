"""The whole service on one machine: Postgres, fraud worker and server as processes, and what to do with them.

May import everything, for it only starts and shows; nothing imports it but tests and benches.
"""
