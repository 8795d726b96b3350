-- Whose recycling or review an id names; no row where it names neither. $1 id
SELECT r.account_id FROM recycling AS r WHERE r.recycling_id = $1
UNION
SELECT v.account_id FROM review AS v WHERE v.review_id = $1
