-- Everything up to an event ($4-$8) was published by the holder ($2) of a relay ($1), which keeps its lease for so many
-- seconds more ($3). No row: another has taken over.
UPDATE event_relay
SET lease_until = clock_timestamp() + make_interval(secs => $3),
    xact = $4, account_id = $5, subject_id = $6, version = $7, event_time = $8
WHERE relay = $1 AND holder = $2
RETURNING relay
