-- Waits until no other transaction holds the lock of this name, and holds it until this one ends.
-- $1 name
SELECT pg_advisory_xact_lock(hashtextextended($1, 0))
