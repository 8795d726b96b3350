-- Why: reviews are given out by the end of their hold, so that a thousand settlements, which can wait for ever, push no
-- held card past its end.

-- Built within the migration's transaction, which holds writes up for as long: no table of this service is large yet.
-- squawk-ignore require-concurrent-index-creation
CREATE INDEX review_pressing ON review (hold_until, create_time, review_id) WHERE state = 'OPEN';
-- Its first column serves what the one before did.
-- squawk-ignore require-concurrent-index-deletion
DROP INDEX review_due;
