-- Keeps what became of a recycling, with how that stands; the triggers of `outcome` keep what follows from it. The same
-- outcome again changes nothing; nor does one without a time where one of its kind is known, for which those without a time
-- must come one after the other.
-- $1 account id  $2 recycling id  $3 kind  $4 when it happened, or null for now
INSERT INTO outcome (account_id, recycling_id, kind, outcome_time, record_time, platform, policy_revision,
                     model_version, risk_score, state)
SELECT r.account_id, r.recycling_id, $3, coalesce($4::timestamptz, moment.now), moment.now, r.platform, r.policy_revision,
       r.decision ->> 'model_version', (r.decision ->> 'risk_score')::double precision, r.state
FROM recycling AS r, (SELECT service_clock() AS now) AS moment
WHERE r.account_id = $1 AND r.recycling_id = $2
  AND ($4 IS NOT NULL OR NOT EXISTS (
    SELECT FROM outcome AS o WHERE o.account_id = r.account_id AND o.recycling_id = r.recycling_id AND o.kind = $3))
ON CONFLICT DO NOTHING
