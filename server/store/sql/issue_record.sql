-- Issues cards in one transaction. An item whose request id was answered meanwhile writes nothing; a serial taken
-- meanwhile fails the whole. Returns the card ids issued.
WITH input AS (
  SELECT card.*, row_number() OVER () AS position
  FROM :card(account_id text, request_id uuid, input_hash bytea, response bytea, receipt json, card_id uuid,
                      external_serial text, platform text, tier text, segment text, face_value_minor bigint,
                      paid_minor bigint, currency text, duration_days integer, issue_time timestamptz,
                      activate_by_time timestamptz)
),
answered AS (
  INSERT INTO command (account_id, request_id, method, input_hash, response, receipt, create_time)
  SELECT account_id, request_id, 'IssueCards', input_hash, response, receipt, issue_time FROM input
  ON CONFLICT DO NOTHING
  RETURNING account_id, request_id
),
issued AS (
  SELECT input.* FROM input JOIN answered USING (account_id, request_id)
),
opened AS (
  INSERT INTO account AS a (account_id, version, segment, create_time)
  -- The last item that says a segment decides.
  SELECT account_id, 1, (array_agg(segment ORDER BY position DESC) FILTER (WHERE segment IS NOT NULL))[1], min(issue_time)
  FROM issued GROUP BY account_id
  ON CONFLICT (account_id) DO UPDATE SET segment = excluded.segment, version = a.version + 1
  WHERE excluded.segment IS NOT NULL AND a.segment IS DISTINCT FROM excluded.segment
),
serial AS (
  INSERT INTO card_serial (platform, external_serial, account_id, card_id)
  SELECT platform, external_serial, account_id, card_id FROM issued WHERE external_serial IS NOT NULL
),
made AS (
  INSERT INTO card (account_id, card_id, external_serial, platform, tier, state, face_value_minor, paid_minor, currency,
                    duration_days, issue_time, activate_by_time, generation, renewals_used, version)
  SELECT account_id, card_id, external_serial, platform, tier, 'ISSUED', face_value_minor, paid_minor, currency,
         duration_days, issue_time, activate_by_time, 1, 0, 1
  FROM issued
),
told AS (
  INSERT INTO card_event (account_id, card_id, version, kind, state, activate_by_time, generation, renewals_used,
                          request_id, event_time)
  SELECT account_id, card_id, 1, 'ISSUED', 'ISSUED', activate_by_time, 1, 0, request_id, issue_time FROM issued
),
risk AS (
  -- Nobody's device: a seller issues cards.
  INSERT INTO risk_event (account_id, event_time, kind, card_id, serial_block, amount_minor, tier)
  SELECT account_id, issue_time, 'ISSUE', card_id::text, serial_block(platform, external_serial), paid_minor, tier
  FROM issued
)
SELECT card_id FROM issued
