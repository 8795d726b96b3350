-- Why: one reviewer may have only so many reviews at once. Each claim counts those that its reviewer has.

-- Exception to the distribution key, as reviewers work across accounts. Built within the migration's transaction, which
-- holds reviews up for as long: no table of this service is large yet.
-- squawk-ignore require-concurrent-index-creation
CREATE INDEX review_claimed ON review (claimed_by, claim_until) WHERE state = 'OPEN' AND claimed_by IS NOT NULL;
