-- Why: one reviewer may have only so many reviews at once, and each claim counts those that its reviewer has. And what is
-- known of a whole account is known of its requests: silence must not call those of an abuser honest.

-- Exception to the distribution key, as reviewers work across accounts. Built within the migration's transaction, which
-- holds reviews up for as long: no table of this service is large yet.
-- squawk-ignore require-concurrent-index-creation
CREATE INDEX review_claimed ON review (claimed_by, claim_until) WHERE state = 'OPEN' AND claimed_by IS NOT NULL;

-- What is known by now of the request that made or undid a recycling: 1 abuse, 0 honest, no row where nothing tells.
--
-- The strongest evidence counts, among equally strong the newest: a finding before a chargeback before a conversion
-- before a reviewer's verdict (a `risk_label` of source "review") before what is known of its account (a `risk_label` that
-- names no recycling). Outcomes are told of a recycling, and speak for or against whichever request; a verdict is about the
-- request (p_request_id) that was reviewed, and says nothing of others. A complaint tells nothing by itself. An approved
-- request of which nothing was said for p_mature counts as honest. One that was refused or is held has no label unless
-- somebody found out: what it would have come to, nobody saw.
-- label_time: from when on the service knew.
CREATE OR REPLACE FUNCTION request_label(
  p_account_id text, p_recycling_id uuid, p_request_id uuid, p_approved boolean, p_judged_time timestamptz,
  p_mature interval, p_now timestamptz
) RETURNS TABLE (label smallint, source text, label_time timestamptz)
LANGUAGE sql STABLE AS $$
  SELECT e.label::smallint, e.source, e.label_time
  FROM (
    SELECT CASE WHEN o.kind IN ('CHARGEBACK', 'CONFIRMED_FRAUD') THEN 1 ELSE 0 END AS label, o.kind AS source,
           o.record_time AS label_time,
           CASE o.kind WHEN 'CONVERSION' THEN 3 WHEN 'CHARGEBACK' THEN 4 ELSE 5 END AS strength
    FROM outcome AS o
    WHERE o.account_id = p_account_id AND o.recycling_id = p_recycling_id AND o.kind <> 'COMPLAINT'
      AND o.record_time <= p_now
    UNION ALL
    SELECT l.label, 'REVIEW', l.label_time, 2
    FROM risk_label AS l
    WHERE l.account_id = p_account_id AND l.recycling_id = p_recycling_id AND l.source = 'review'
      AND (l.request_id IS NULL OR l.request_id = p_request_id) AND l.label_time <= p_now
    UNION ALL
    -- Of a request nothing was known before it was made.
    SELECT a.label, 'ACCOUNT', greatest(a.label_time, p_judged_time), 1
    FROM (SELECT l.label, l.label_time FROM risk_label AS l
          WHERE l.account_id = p_account_id AND l.recycling_id IS NULL AND l.request_id IS NULL AND l.label_time <= p_now
          ORDER BY l.label_time DESC, l.seq DESC LIMIT 1) AS a
    UNION ALL
    SELECT 0, 'SILENCE', p_judged_time + p_mature, 0
    WHERE p_approved AND p_judged_time + p_mature <= p_now
      AND NOT EXISTS (SELECT FROM outcome AS o
                      WHERE o.account_id = p_account_id AND o.recycling_id = p_recycling_id AND o.record_time <= p_now)
  ) AS e
  ORDER BY e.strength DESC, e.label_time DESC, e.label DESC
  LIMIT 1
$$;
