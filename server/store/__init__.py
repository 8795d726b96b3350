"""Postgres behind the engine's ports: rows <-> domain, and every statement in `sql/`. Must not know protos or gRPC."""
