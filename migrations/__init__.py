"""The database as such: the migrations (NNNN_*.sql), their runner, and the launcher of the embedded Postgres.

Knows SQL files, roles and the Postgres binaries; must not know gRPC, the server, the worker, or what a table means.
"""
