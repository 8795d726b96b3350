-- Keeps what became of a recycling, with how that stands; the triggers of `outcome` keep what follows from it. The same
-- outcome again changes nothing. $1 account id  $2 recycling id  $3 kind  $4 when it happened
INSERT INTO outcome (account_id, recycling_id, kind, outcome_time, record_time, platform, policy_revision,
                     model_version, risk_score, state)
SELECT r.account_id, r.recycling_id, $3, $4, service_clock(), r.platform, r.policy_revision,
       r.decision ->> 'model_version', (r.decision ->> 'risk_score')::double precision, r.state
FROM recycling AS r
WHERE r.account_id = $1 AND r.recycling_id = $2
ON CONFLICT DO NOTHING
