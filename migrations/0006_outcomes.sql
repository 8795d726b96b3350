-- Why: what becomes of decisions - complaints, conversions, chargebacks, findings - so that models can be trained and
-- judged upon it; and the way back from an event or an outcome to the decision.

CREATE TABLE outcome (
  account_id text NOT NULL,
  recycling_id uuid NOT NULL,
  kind text NOT NULL CHECK (kind IN ('COMPLAINT', 'CONVERSION', 'CHARGEBACK', 'CONFIRMED_FRAUD', 'CONFIRMED_GENUINE')),
  -- When it happened.
  outcome_time timestamptz NOT NULL,
  -- When the service was told: nothing before knew of it.
  record_time timestamptz NOT NULL CHECK (record_time >= outcome_time),
  -- What had decided upon the recycling, and how it stood at record_time.
  platform text NOT NULL,
  policy_revision integer NOT NULL,
  model_version text NOT NULL,
  risk_score double precision CHECK (risk_score BETWEEN 0 AND 1),
  state text NOT NULL CHECK (state IN ('APPROVED', 'REJECTED', 'IN_REVIEW', 'REVERSED')),
  PRIMARY KEY (account_id, recycling_id, kind, outcome_time),
  FOREIGN KEY (account_id, recycling_id) REFERENCES recycling (account_id, recycling_id)
);
GRANT SELECT, INSERT ON outcome TO recycling_server;

-- Both indexes below are built within the migration's transaction, which holds writes up for as long: no table of this
-- service is large yet.

-- Who tells an outcome may know the recycling only by its id. Not unique: that is for the key.
-- squawk-ignore require-concurrent-index-creation
CREATE INDEX recycling_by_id ON recycling (recycling_id);

-- The command that an event stems from; null for dry runs, for what no command leaves, and for events of before.
ALTER TABLE risk_event ADD COLUMN request_id uuid;

-- The request that a label is about; null where it is about the one that made its recycling, or about the account.
ALTER TABLE risk_label ADD COLUMN request_id uuid;

-- The newest judged commands of a window.
-- squawk-ignore require-concurrent-index-creation
CREATE INDEX command_judged ON command (create_time) WHERE method IN ('Recycle', 'Reactivate');

-- What follows from outcomes at once, kept by a trigger so that no writer can forget it. A complaint is an event of its
-- account; of an account whose abuse became known, features tell from then on. A request's abuse becomes known once,
-- however often it is told, and stays known: what is found out later changes its label, not what was known.
CREATE FUNCTION project_outcomes() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO risk_event (account_id, event_time, kind, card_id, tier, recycling_id)
  SELECT o.account_id, o.record_time, 'COMPLAINT', r.card_id::text, c.tier, o.recycling_id
  FROM new_outcome AS o
  JOIN recycling AS r ON r.account_id = o.account_id AND r.recycling_id = o.recycling_id
  JOIN card AS c ON c.account_id = r.account_id AND c.card_id = r.card_id
  WHERE o.kind = 'COMPLAINT';
  INSERT INTO risk_label (account_id, recycling_id, label, source, label_time)
  SELECT o.account_id, o.recycling_id, 1, lower(o.kind), o.record_time
  FROM new_outcome AS o
  JOIN recycling AS r ON r.account_id = o.account_id AND r.recycling_id = o.recycling_id
  WHERE o.kind IN ('CHARGEBACK', 'CONFIRMED_FRAUD')
    AND NOT EXISTS (SELECT FROM risk_label AS l
                    WHERE l.account_id = o.account_id AND l.recycling_id = o.recycling_id AND l.label = 1
                      AND coalesce(l.request_id, r.request_id) = r.request_id);
  RETURN NULL;
END
$$;

CREATE TRIGGER outcome_projected AFTER INSERT ON outcome
  REFERENCING NEW TABLE AS new_outcome
  FOR EACH STATEMENT EXECUTE FUNCTION project_outcomes();

-- What is known by now of the request that made or undid a recycling: 1 abuse, 0 honest, no row where nothing tells.
--
-- The strongest evidence counts, among equally strong the newest: a finding before a chargeback before a conversion
-- before a reviewer's verdict (a `risk_label` of source "review"). Outcomes are told of a recycling, and speak for or
-- against whichever request; a verdict is about the request (p_request_id) that was reviewed, and says nothing of others.
-- A complaint tells nothing by itself. An approved request of which nothing was said for p_mature counts as honest. One
-- that was refused or is held has no label unless somebody found out: what it would have come to, nobody saw.
-- label_time: from when on the service knew.
CREATE FUNCTION request_label(
  p_account_id text, p_recycling_id uuid, p_request_id uuid, p_approved boolean, p_judged_time timestamptz,
  p_mature interval, p_now timestamptz
) RETURNS TABLE (label smallint, source text, label_time timestamptz)
LANGUAGE sql STABLE AS $$
  SELECT e.label::smallint, e.source, e.label_time
  FROM (
    SELECT CASE WHEN o.kind IN ('CHARGEBACK', 'CONFIRMED_FRAUD') THEN 1 ELSE 0 END AS label, o.kind AS source,
           o.record_time AS label_time,
           CASE o.kind WHEN 'CONVERSION' THEN 2 WHEN 'CHARGEBACK' THEN 3 ELSE 4 END AS strength
    FROM outcome AS o
    WHERE o.account_id = p_account_id AND o.recycling_id = p_recycling_id AND o.kind <> 'COMPLAINT'
      AND o.record_time <= p_now
    UNION ALL
    SELECT l.label, 'REVIEW', l.label_time, 1
    FROM risk_label AS l
    WHERE l.account_id = p_account_id AND l.recycling_id = p_recycling_id AND l.source = 'review'
      AND (l.request_id IS NULL OR l.request_id = p_request_id) AND l.label_time <= p_now
    UNION ALL
    SELECT 0, 'SILENCE', p_judged_time + p_mature, 0
    WHERE p_approved AND p_judged_time + p_mature <= p_now
      AND NOT EXISTS (SELECT FROM outcome AS o
                      WHERE o.account_id = p_account_id AND o.recycling_id = p_recycling_id AND o.record_time <= p_now)
  ) AS e
  ORDER BY e.strength DESC, e.label_time DESC, e.label DESC
  LIMIT 1
$$;
