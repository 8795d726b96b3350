-- The holder ($2) of a relay ($1) lets go of its lease, so that another need not wait for its end.
UPDATE event_relay SET lease_until = '-infinity' WHERE relay = $1 AND holder = $2
