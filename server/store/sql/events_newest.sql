-- The position of the last event that nothing can come before any more; no row while there is none.
SELECT xact, account_id, subject_id, version, event_time FROM event_feed_newest()
