-- What must always hold in the database, one query each: it returns the rows that break the rule, so no row is good.
-- Read by migrations/invariants.py. A block opens with `-- name: NAME (NUMBER)`, NUMBER being the rule's in the
-- design, and goes on with the rule in one sentence. The queries only read, and see one snapshot.

-- name: transfers_balance (1)
-- The postings of each transfer sum to zero in each platform's unit.
SELECT account_id, request_id, platform, unit, sum(amount) AS surplus
FROM posting
GROUP BY account_id, request_id, platform, unit
HAVING sum(amount) <> 0;

-- name: units_balance (1)
-- The postings of each platform's unit sum to zero over all accounts.
SELECT platform, unit, sum(amount) AS surplus
FROM posting
GROUP BY platform, unit
HAVING sum(amount) <> 0;

-- name: wallets_match_postings (1)
-- A wallet's balance is the sum of its postings.
SELECT account_id, platform, unit, coalesce(b.amount, 0) AS balance, coalesce(p.amount, 0) AS posted
FROM wallet_balance AS b
FULL JOIN (
  SELECT account_id, platform, unit, sum(amount) AS amount
  FROM posting
  WHERE ledger = 'WALLET'
  GROUP BY account_id, platform, unit
) AS p USING (account_id, platform, unit)
WHERE coalesce(b.amount, 0) <> coalesce(p.amount, 0);

-- name: coupons_match_settlements (1)
-- Each settled or redeemed coupon lies in the wallet with the terms of what gave it, and no other coupon does.
SELECT account_id, recycling_id, s.recycling_id IS NOT NULL AS settled, c.recycling_id IS NOT NULL AS held
FROM (SELECT *, coupon_id AS recycling_id FROM coupon) AS c
FULL JOIN (
  SELECT p.account_id, p.recycling_id, p.platform, r.basis_points, r.max_discount_minor, r.coupon_expire_time
  FROM posting AS p
  LEFT JOIN recycling AS r USING (account_id, recycling_id)
  WHERE p.unit = 'COUPON' AND p.ledger = 'WALLET' AND p.kind = 'SETTLEMENT'
  UNION ALL
  SELECT account_id, redemption_id, platform, basis_points, value_minor, expire_time
  FROM redemption WHERE benefit = 'COUPON'
) AS s USING (account_id, recycling_id)
WHERE (c.platform, c.basis_points, c.max_discount_minor, c.expire_time)
      IS DISTINCT FROM (s.platform, s.basis_points, s.max_discount_minor, s.coupon_expire_time);

-- name: coupons_expire_in_time (1)
-- A coupon goes out of the wallet when it expires, or when it came if that was later, and is open until that is recorded.
SELECT account_id, coupon_id, c.expire_time, c.create_time, p.create_time AS posted_time, p.legs,
       o.coupon_id IS NOT NULL AS open
FROM coupon AS c
FULL JOIN (
  SELECT account_id, coalesce(recycling_id, redemption_id) AS coupon_id, min(create_time) AS create_time,
         array_agg(amount ORDER BY ledger) AS legs, min(unit) AS unit
  FROM posting WHERE kind = 'EXPIRY'
  GROUP BY account_id, coalesce(recycling_id, redemption_id)
) AS p USING (account_id, coupon_id)
FULL JOIN coupon_open AS o USING (account_id, coupon_id)
WHERE c.platform IS NULL OR (p.legs IS NULL) <> (o.platform IS NOT NULL)
   OR (p.legs IS NOT NULL AND (p.create_time, p.legs, p.unit)
         IS DISTINCT FROM (greatest(c.expire_time, c.create_time), ARRAY[1::bigint, -1::bigint], 'COUPON'))
   OR (o.platform IS NOT NULL AND (o.platform, o.expire_time, o.create_time)
         IS DISTINCT FROM (c.platform, c.expire_time, c.create_time));

-- name: one_live_recycling (2)
-- A generation of a card is recycled at most once.
SELECT account_id, card_id, generation, count(*) AS live
FROM recycling
WHERE state IN ('APPROVED', 'IN_REVIEW')
GROUP BY account_id, card_id, generation
HAVING count(*) > 1;

-- name: unique_keys_stand (2)
-- What may be there only once is kept so by a valid unique index.
SELECT wanted.*
FROM (VALUES
  ('account', 'account_id', NULL),
  ('card', 'account_id, card_id', NULL),
  ('card_event', 'account_id, card_id, version', NULL),
  ('card_serial', 'platform, external_serial', NULL),
  ('command', 'account_id, request_id', NULL),
  ('coupon', 'account_id, coupon_id', NULL),
  ('coupon_open', 'account_id, coupon_id', NULL),
  ('goodwill', 'account_id, request_id', NULL),
  ('list_entry', 'subject_kind, subject, list, version', NULL),
  ('policy_activation', 'platform, activation', NULL),
  ('policy_revision', 'platform, revision', NULL),
  ('posting', 'account_id, request_id, ledger, platform, unit', NULL),
  ('posting', 'account_id, recycling_id, kind, ledger', NULL),
  ('posting', 'account_id, redemption_id, ledger', '(kind = ''EXPIRY''::text)'),
  ('price', 'platform, tier, from_time', NULL),
  ('recycling', 'account_id, recycling_id', NULL),
  ('recycling', 'account_id, card_id, generation', '(state = ANY (ARRAY[''APPROVED''::text, ''IN_REVIEW''::text]))'),
  ('redemption', 'account_id, redemption_id', NULL),
  ('redemption', 'account_id, request_id', NULL),
  ('review', 'account_id, review_id', NULL),
  ('review', 'account_id, card_id', '((state = ''OPEN''::text) AND (kind <> ''SETTLEMENT''::text))'),
  ('review', 'account_id, card_id', '((state = ''OPEN''::text) AND (kind = ''SETTLEMENT''::text))'),
  ('wallet_balance', 'account_id, platform, unit', NULL)
) AS wanted (relation, columns, condition)
WHERE NOT EXISTS (
  SELECT FROM pg_index AS i
  WHERE i.indrelid = to_regclass(wanted.relation) AND i.indisunique AND i.indisvalid AND i.indisready
    AND pg_get_expr(i.indpred, i.indrelid) IS NOT DISTINCT FROM wanted.condition
    AND wanted.columns = (
      SELECT string_agg(pg_get_indexdef(i.indexrelid, place, true), ', ' ORDER BY place)
      FROM generate_series(1, i.indnkeyatts) AS place
    )
);

-- name: cards_match_live_recycling (2)
-- A card points to the one approved recycling of its generation, and is RECYCLED or VOID as that disposed.
SELECT account_id, card_id, c.state, c.generation, c.live_recycling_id, r.recycling_id, r.disposition
FROM card AS c
FULL JOIN (SELECT * FROM recycling WHERE state = 'APPROVED') AS r USING (account_id, card_id)
WHERE c.live_recycling_id IS DISTINCT FROM r.recycling_id
   OR c.generation <> r.generation
   OR (r.recycling_id IS NULL AND c.state = 'RECYCLED')
   OR (r.recycling_id IS NOT NULL AND c.state NOT IN ('RECYCLED', 'VOID'))
   OR (r.disposition = 'CANCEL' AND c.state <> 'VOID');

-- name: reversals_begin_generations (2)
-- An undone recycling belongs to an earlier generation than its card's, and each earlier generation was undone once.
SELECT c.account_id, c.card_id, c.generation, array_agg(r.generation ORDER BY r.generation) AS undone
FROM card AS c
LEFT JOIN recycling AS r ON (r.account_id, r.card_id, r.state) = (c.account_id, c.card_id, 'REVERSED')
GROUP BY c.account_id, c.card_id, c.generation
HAVING count(r.generation) <> c.generation - 1
    OR count(DISTINCT r.generation) <> c.generation - 1
    OR coalesce(max(r.generation), 0) >= c.generation;

-- name: serials_once (2)
-- A seller's serial is registered once per platform, by the card that carries it.
SELECT platform, external_serial, array_agg(c.card_id) AS cards, array_agg(s.card_id) AS registered
FROM (SELECT * FROM card WHERE external_serial IS NOT NULL) AS c
FULL JOIN card_serial AS s USING (platform, external_serial)
GROUP BY platform, external_serial
HAVING count(*) <> 1 OR NOT coalesce(bool_and(c.card_id = s.card_id AND c.account_id = s.account_id), false);

-- name: cards_match_events (3)
-- A card's row equals its last event, and its events are numbered from 1 without a gap. A row never says EXPIRED.
SELECT account_id, card_id, c.version, e.event_count, e.version AS last_version, c.state, e.state AS last_state
FROM card AS c
FULL JOIN (
  SELECT DISTINCT ON (account_id, card_id) *, count(*) OVER (PARTITION BY account_id, card_id) AS event_count,
         array_agg(device_hash) FILTER (WHERE kind = 'BOUND') OVER (
           PARTITION BY account_id, card_id ORDER BY version ROWS UNBOUNDED PRECEDING) AS bound_devices
  FROM card_event
  ORDER BY account_id, card_id, version DESC
) AS e USING (account_id, card_id)
WHERE e.event_count IS DISTINCT FROM e.version
   OR (c.version, c.state, c.activate_by_time, c.activate_time, c.expire_time, c.generation, c.renewals_used,
       c.held_since, c.hold_until, c.bound_devices)
      IS DISTINCT FROM
      (e.version, CASE WHEN e.state <> 'EXPIRED' THEN e.state WHEN e.activate_time IS NULL THEN 'ISSUED' ELSE 'ACTIVE' END,
       e.activate_by_time, e.activate_time, e.expire_time, e.generation, e.renewals_used, e.held_since, e.hold_until,
       coalesce(e.bound_devices, '{}'))
   OR (e.kind = 'RECYCLED' AND e.recycling_id IS DISTINCT FROM c.live_recycling_id);

-- name: transitions_are_legal (3)
-- Each event of a card is one that the state before it allows, and tells of an expiry neither early nor late.
-- EXPIRED stands for ISSUED or ACTIVE, whichever it was: nothing but the telling has changed.
SELECT account_id, card_id, version, prior_state, kind, state, told_state, prior_generation, generation, prior_renewals,
       renewals_used
FROM (
  SELECT *, lag(state) OVER life AS prior_state, lag(told_state) OVER life AS prior_told_state,
         lag(generation) OVER life AS prior_generation,
         lag(renewals_used) OVER life AS prior_renewals, lag(held_since) OVER life AS prior_held_since
  FROM (
    SELECT account_id, card_id, version, kind, activate_by_time, expire_time, generation, renewals_used, held_since,
           hold_until, recycling_id, event_time, state AS told_state,
           CASE WHEN state <> 'EXPIRED' THEN state WHEN activate_time IS NULL THEN 'ISSUED' ELSE 'ACTIVE' END AS state
    FROM card_event
  ) AS told
  WINDOW life AS (PARTITION BY account_id, card_id ORDER BY version)
) AS e
-- A card is held by one kind of event only, and what releases it does nothing to a card that is free.
WHERE (held_since IS NOT NULL) <> (kind = 'HELD')
   OR (kind IN ('ACTIVATED', 'HELD', 'EXPIRED', 'CLOSED', 'BOUND') AND prior_held_since IS NOT NULL)
   OR (told_state = 'EXPIRED' AND kind NOT IN ('EXPIRED', 'HELD', 'RELEASED'))
   OR NOT coalesce(CASE kind
  WHEN 'ISSUED' THEN prior_state IS NULL AND state = 'ISSUED' AND generation = 1 AND renewals_used = 0
  WHEN 'ACTIVATED' THEN prior_told_state = 'ISSUED' AND state = 'ACTIVE'
    AND (generation, renewals_used) = (prior_generation, prior_renewals)
  WHEN 'RECYCLED' THEN prior_state IN ('ISSUED', 'ACTIVE') AND state IN ('RECYCLED', 'VOID')
    AND recycling_id IS NOT NULL AND (generation, renewals_used) = (prior_generation, prior_renewals)
  WHEN 'REACTIVATED' THEN prior_state = 'RECYCLED' AND state IN ('ISSUED', 'ACTIVE')
    AND generation = prior_generation + 1 AND renewals_used - prior_renewals IN (0, 1)
  WHEN 'VOIDED' THEN prior_state IN ('ISSUED', 'ACTIVE', 'RECYCLED') AND state = 'VOID'
    AND (generation, renewals_used) = (prior_generation, prior_renewals)
  WHEN 'HELD' THEN prior_state IN ('ISSUED', 'ACTIVE', 'RECYCLED') AND held_since = event_time
    AND event_time < hold_until
    AND (state, generation, renewals_used) = (prior_state, prior_generation, prior_renewals)
  WHEN 'RELEASED' THEN prior_held_since IS NOT NULL
    AND (state, generation, renewals_used) = (prior_state, prior_generation, prior_renewals)
  WHEN 'EXPIRED' THEN told_state = 'EXPIRED' AND prior_told_state IN ('ISSUED', 'ACTIVE')
    AND event_time = coalesce(expire_time, activate_by_time)
    AND (state, generation, renewals_used) = (prior_state, prior_generation, prior_renewals)
  WHEN 'CLOSED' THEN prior_state = 'RECYCLED' AND state = 'VOID'
    AND (generation, renewals_used) = (prior_generation, prior_renewals)
  WHEN 'BOUND' THEN prior_told_state IN ('ISSUED', 'ACTIVE')
    AND (state, generation, renewals_used) = (prior_state, prior_generation, prior_renewals)
END, false);

-- name: expiries_match_events (3)
-- A card that has not been taken is known to have expired exactly if an event of its generation tells so, and of this bound.
SELECT c.account_id, c.card_id, c.state, c.expired_bound, e.event_time
FROM card AS c
LEFT JOIN card_event AS e
  ON (e.account_id, e.card_id, e.generation, e.kind) = (c.account_id, c.card_id, c.generation, 'EXPIRED')
WHERE c.state IN ('ISSUED', 'ACTIVE')
  AND CASE WHEN c.expired_bound = coalesce(c.expire_time, c.activate_by_time) THEN c.expired_bound END
      IS DISTINCT FROM e.event_time;

-- name: windows_close_in_time (3)
-- A card that waited in vain ends when the time in which it could come back does, by its recycling's own policy.
SELECT e.account_id, e.card_id, e.version, e.event_time, r.recycling_id, r.create_time, r.window_moved_us
FROM card_event AS e
JOIN card AS c USING (account_id, card_id)
LEFT JOIN recycling AS r ON (r.account_id, r.recycling_id) = (e.account_id, e.recycling_id)
LEFT JOIN policy_revision AS p ON (p.platform, p.revision) = (r.platform, r.policy_revision)
WHERE e.kind = 'CLOSED'
  AND e.event_time IS DISTINCT FROM
      r.create_time
      + coalesce(p.document #>> ARRAY['tiers', c.tier, 'window_days'],
                 p.document #>> '{reactivation,window_days}')::integer * interval '24 hours'
      + r.window_moved_us * interval '1 microsecond';

-- name: own_recycles_wait (3)
-- What the service recycles by itself has expired as long ago as its policy says, and risk refused or held none of it.
SELECT r.account_id, r.recycling_id, r.state, r.reason, r.create_time, e.event_time AS expired
FROM recycling AS r
JOIN policy_revision AS p ON (p.platform, p.revision) = (r.platform, r.policy_revision)
LEFT JOIN card_event AS e
  ON (e.account_id, e.card_id, e.generation, e.kind) = (r.account_id, r.card_id, r.generation, 'EXPIRED')
WHERE r.request_id::text ~ '^.{14}8.{4}[89ab]'
  AND NOT coalesce(
    (r.state, r.reason, r.priority, p.document #>> '{trigger,automatic}') = ('APPROVED', 'EXPIRED', 'BULK', 'true')
    AND r.create_time >= e.event_time
        + coalesce((p.document #>> '{trigger,wait_after_expiry_days}')::integer, 0) * interval '24 hours', false);

-- name: validity_follows_events (3)
-- Activating starts a card's validity, giving it back restores it, a hold adds its own time, nothing else moves it.
SELECT account_id, card_id, version, kind, event_time, activate_by_time, activate_time, expire_time, renewals_used
FROM (
  SELECT e.*, c.issue_time, c.duration_days * interval '24 hours' AS duration,
         r.create_time AS taken_time, r.unused_us * interval '1 microsecond' AS unused,
         p.document #>> '{reactivation,validity}' AS validity
  FROM (
    SELECT *, lag(activate_by_time) OVER life AS prior_activate_by_time,
           lag(activate_time) OVER life AS prior_activate_time, lag(expire_time) OVER life AS prior_expire_time,
           lag(renewals_used) OVER life AS prior_renewals, lag(recycling_id) OVER life AS undone_id,
           lag(held_since) OVER life AS prior_held_since
    FROM card_event
    WINDOW life AS (PARTITION BY account_id, card_id ORDER BY version)
  ) AS e
  JOIN card AS c USING (account_id, card_id)
  LEFT JOIN recycling AS r ON (r.account_id, r.recycling_id) = (e.account_id, e.undone_id) AND e.kind = 'REACTIVATED'
  LEFT JOIN policy_revision AS p ON (p.platform, p.revision) = (r.platform, r.policy_revision)
) AS e
WHERE CASE
  WHEN kind = 'ISSUED' THEN
    (event_time, activate_time, expire_time) IS DISTINCT FROM (issue_time, NULL::timestamptz, NULL::timestamptz)
  WHEN kind = 'ACTIVATED' THEN
    (activate_by_time, activate_time, expire_time)
    IS DISTINCT FROM (prior_activate_by_time, event_time, event_time + duration)
  WHEN kind = 'REACTIVATED' AND validity = 'FULL' THEN
    (state, activate_by_time, activate_time, expire_time, renewals_used)
    IS DISTINCT FROM
    ('ACTIVE', prior_activate_by_time, coalesce(prior_activate_time, event_time), event_time + duration,
     prior_renewals + 1)
  WHEN kind = 'REACTIVATED' AND validity = 'AS_TAKEN' AND prior_activate_time IS NULL THEN
    (state, activate_by_time, activate_time, expire_time, renewals_used)
    IS DISTINCT FROM
    ('ISSUED', prior_activate_by_time + (event_time - taken_time), NULL::timestamptz, NULL::timestamptz, prior_renewals)
  WHEN kind = 'REACTIVATED' AND validity = 'AS_TAKEN' THEN
    (state, activate_by_time, activate_time, expire_time, renewals_used)
    IS DISTINCT FROM ('ACTIVE', prior_activate_by_time, prior_activate_time, event_time + unused, prior_renewals)
  WHEN kind = 'REACTIVATED' THEN true
  WHEN kind = 'RELEASED' THEN
    (activate_by_time, activate_time, expire_time)
    IS DISTINCT FROM
    (prior_activate_by_time + CASE WHEN state = 'ISSUED' AND prior_activate_by_time > prior_held_since
                                   THEN event_time - prior_held_since ELSE interval '0' END,
     prior_activate_time,
     prior_expire_time + CASE WHEN state = 'ACTIVE' AND prior_expire_time > prior_held_since
                              THEN event_time - prior_held_since ELSE interval '0' END)
  ELSE
    (activate_by_time, activate_time, expire_time)
    IS DISTINCT FROM (prior_activate_by_time, prior_activate_time, prior_expire_time)
END;

-- name: recyclings_match_events (3)
-- A recycling took, or holds, its card as the card's event tells: by its command or verdict, in state and validity.
SELECT r.account_id, r.recycling_id, r.card_id, r.generation, r.prior_state, r.unused_us, e.version
FROM recycling AS r
JOIN card AS c USING (account_id, card_id)
LEFT JOIN review AS v
  ON (v.account_id, v.recycling_id, v.kind, v.state) = (r.account_id, r.recycling_id, 'RECYCLE', 'APPROVED')
LEFT JOIN card_event AS e
  ON (e.account_id, e.recycling_id) = (r.account_id, r.recycling_id)
 AND e.kind = CASE r.state WHEN 'IN_REVIEW' THEN 'HELD' ELSE 'RECYCLED' END
CROSS JOIN LATERAL (
  SELECT CASE WHEN coalesce(e.expire_time, e.activate_by_time) <= r.create_time THEN 'EXPIRED'
              WHEN e.activate_time IS NULL THEN 'ISSUED' ELSE 'ACTIVE' END AS state
) AS prior
WHERE r.state <> 'REJECTED'
  AND (coalesce(v.resolve_request_id, r.request_id), r.card_id, r.generation,
       coalesce(v.resolve_time, r.create_time), r.prior_state, r.unused_us * interval '1 microsecond')
      IS DISTINCT FROM
      (e.request_id, e.card_id, e.generation, e.event_time, prior.state,
       CASE prior.state WHEN 'ISSUED' THEN c.duration_days * interval '24 hours'
                        WHEN 'ACTIVE' THEN e.expire_time - r.create_time ELSE interval '0' END);

-- name: holds_match_cards (3)
-- A card is held, and a recycling in review, exactly while one open review says so, since and until when it says.
SELECT account_id, card_id, c.held_since, c.hold_until, v.review_id, v.hold_until AS review_hold_until,
       NULL::uuid AS recycling_id
FROM (SELECT * FROM card WHERE held_since IS NOT NULL) AS c
FULL JOIN (
  SELECT account_id, card_id, (array_agg(review_id))[1] AS review_id, count(*) AS holds,
         min(create_time) AS create_time, min(hold_until) AS hold_until
  FROM review
  WHERE state = 'OPEN' AND kind <> 'SETTLEMENT'
  GROUP BY account_id, card_id
) AS v USING (account_id, card_id)
WHERE (c.held_since, c.hold_until) IS DISTINCT FROM (v.create_time, v.hold_until) OR v.holds <> 1
UNION ALL
SELECT account_id, coalesce(r.card_id, v.card_id), r.create_time, r.hold_until, v.review_id, v.hold_until, recycling_id
FROM (SELECT * FROM recycling WHERE state = 'IN_REVIEW') AS r
FULL JOIN (SELECT * FROM review WHERE state = 'OPEN' AND kind = 'RECYCLE') AS v USING (account_id, recycling_id)
WHERE (r.card_id, r.create_time, r.hold_until) IS DISTINCT FROM (v.card_id, v.create_time, v.hold_until);

-- name: cards_match_receipts (3)
-- What a card was sold as never changes: each command's receipt tells the same, and its issue the same price.
-- Compensate and Reactivate, which follow a Recycle of the same card, have nothing to add.
SELECT c.account_id, c.card_id, n.request_id, c.paid_minor, k.paid_minor AS told_paid_minor, c.duration_days,
       k.duration_days AS told_duration_days
FROM (
  SELECT account_id, request_id, receipt -> 'card' AS card
  FROM command
  WHERE method IN ('IssueCards', 'ActivateCard', 'Recycle', 'VoidCard')
) AS n
CROSS JOIN json_populate_record(NULL::card, n.card) AS k
JOIN card AS c ON (c.account_id, c.card_id) = (n.account_id, k.card_id)
WHERE (c.external_serial, c.platform, c.tier, c.face_value_minor, c.paid_minor, c.currency, c.duration_days,
       c.issue_time)
      IS DISTINCT FROM
      (k.external_serial, k.platform, k.tier, k.face_value_minor, k.paid_minor, k.currency, k.duration_days,
       k.issue_time)
UNION ALL
SELECT c.account_id, c.card_id, NULL, c.paid_minor, e.amount_minor, NULL, NULL
FROM card AS c
JOIN risk_event AS e ON (e.account_id, e.card_id, e.kind) = (c.account_id, c.card_id::text, 'ISSUE')
WHERE e.amount_minor <> c.paid_minor;

-- name: commands_have_effects (4)
-- Each accepted command has left what its method leaves, but for a reactivation that was refused for its risk.
SELECT c.account_id, c.request_id, c.method
FROM command AS c
WHERE NOT EXISTS (
  SELECT
  FROM (
    SELECT account_id, request_id, 'Recycle' AS method FROM recycling
    UNION ALL
    SELECT account_id, request_id,
           CASE kind WHEN 'EXPIRY' THEN 'ExpireCoupon' WHEN 'REDEMPTION' THEN 'Redeem' WHEN 'EXCHANGE' THEN 'Exchange'
                     ELSE 'Compensate' END
    FROM posting WHERE kind <> 'CLAWBACK'
    UNION ALL
    SELECT account_id, request_id, 'Reactivate' FROM review WHERE kind = 'REACTIVATE'
    UNION ALL
    SELECT account_id, resolve_request_id, CASE state WHEN 'EXPIRED' THEN 'LapseHold' ELSE 'ResolveReview' END
    FROM review WHERE state IN ('APPROVED', 'DENIED', 'EXPIRED')
    UNION ALL
    SELECT account_id, request_id,
           CASE kind WHEN 'ISSUED' THEN 'IssueCards' WHEN 'ACTIVATED' THEN 'ActivateCard' WHEN 'VOIDED' THEN 'VoidCard'
                     WHEN 'REACTIVATED' THEN 'Reactivate' WHEN 'EXPIRED' THEN 'ExpireCard' WHEN 'CLOSED' THEN 'CloseWindow'
                     WHEN 'BOUND' THEN 'BindDevice' END
    FROM card_event
  ) AS effect
  WHERE (effect.account_id, effect.request_id, effect.method) = (c.account_id, c.request_id, c.method)
)
AND NOT coalesce(CASE c.method
  -- The receipt holds the score that refused it, or the list, the caps or the missing device that did.
  WHEN 'Reactivate' THEN
    coalesce((c.receipt #>> '{score,probability}')::float8 >= (c.receipt #>> '{score,high_threshold}')::float8, false)
    OR EXISTS (SELECT FROM json_array_elements_text(c.receipt #> '{verdict,reason_codes}') AS code
               WHERE code ~ '^DENY_LISTED_|^VELOCITY_|^WITHOUT_DEVICE$')
  -- A card that was VOID already leaves no event: what it blocks then is told by blocked_when_paid_back, and a
  -- chargeback is an outcome, or for want of a recycling a label of the account.
  WHEN 'VoidCard' THEN
    c.receipt #>> '{card,state}' = 'VOID'
    AND (c.receipt #>> '{recycling,compensation,state}' = 'PENDING'
         OR (c.receipt #>> '{input,1}' = 'CHARGEBACK'
             AND CASE WHEN c.receipt #>> '{recycling,recycling_id}' IS NULL
                 THEN EXISTS (SELECT FROM risk_label AS l
                              WHERE (l.account_id, l.label, l.source) = (c.account_id, 1, 'chargeback')
                                AND l.recycling_id IS NULL AND l.label_time >= c.create_time)
                 ELSE EXISTS (SELECT FROM outcome AS o
                              WHERE (o.account_id, o.recycling_id, o.kind, o.outcome_time)
                                  = (c.account_id, (c.receipt #>> '{recycling,recycling_id}')::uuid, 'CHARGEBACK',
                                     c.create_time)) END))
  -- A device that was bound already stays so.
  WHEN 'BindDevice' THEN
    (c.receipt #> '{card,bound_devices}')::jsonb ? encode(decode(c.receipt #>> '{input,1}', 'hex'), 'base64')
END, false);

-- name: own_requests_are_derived (4)
-- What the service does by itself has an id that follows from what it is about, and nothing else has such an id.
SELECT c.account_id, c.request_id, c.method, wanted.request_id AS derived
FROM command AS c
CROSS JOIN LATERAL (
  SELECT CASE c.method
    WHEN 'ExpireCoupon' THEN own_request_id(
      c.method, coalesce(c.receipt #>> '{redemption,redemption_id}', c.receipt #>> '{recycling,recycling_id}'))
    WHEN 'Recycle' THEN own_request_id(c.method, c.receipt #>> '{card,card_id}', c.receipt #>> '{card,generation}')
    WHEN 'ExpireCard' THEN own_request_id(c.method, c.receipt #>> '{card,card_id}', c.receipt #>> '{card,generation}')
    WHEN 'CloseWindow' THEN own_request_id(c.method, c.receipt #>> '{card,card_id}', c.receipt #>> '{card,generation}')
    WHEN 'LapseHold' THEN own_request_id(c.method, c.receipt #>> '{input,0}')  -- servers of before had another
  END AS request_id
) AS wanted
WHERE (c.method IN ('ExpireCoupon', 'ExpireCard', 'CloseWindow') OR c.request_id::text ~ '^.{14}8.{4}[89ab]')
  AND c.request_id IS DISTINCT FROM wanted.request_id;

-- name: reviews_have_causes (4)
-- Each review stems from the accepted command that it is about, and what waits for a verdict has one open review.
SELECT v.account_id, v.review_id, v.recycling_id, v.kind, v.request_id, c.method
FROM review AS v
LEFT JOIN command AS c USING (account_id, request_id)
LEFT JOIN recycling AS r USING (account_id, recycling_id)
WHERE (c.method, c.create_time, v.card_id, v.platform)
      IS DISTINCT FROM
      (CASE v.kind WHEN 'REACTIVATE' THEN 'Reactivate' ELSE 'Recycle' END, v.create_time, r.card_id, r.platform)
   OR (v.kind <> 'REACTIVATE' AND v.request_id <> r.request_id)
UNION ALL
SELECT account_id, v.review_id, recycling_id, 'SETTLEMENT', r.request_id, NULL
FROM (SELECT * FROM recycling WHERE settlement_held AND compensation_state = 'PENDING') AS r
FULL JOIN (SELECT * FROM review WHERE kind = 'SETTLEMENT' AND state = 'OPEN') AS v USING (account_id, recycling_id)
WHERE v.review_id IS NULL OR r.request_id IS NULL;

-- name: reviews_have_effects (4)
-- Each review that has ended did, by the command that ended it and at that moment, what its end means.
SELECT v.account_id, v.review_id, v.kind, v.state, v.resolve_request_id, c.method, e.kind AS event, r.state AS recycling
FROM review AS v
LEFT JOIN command AS c ON (c.account_id, c.request_id) = (v.account_id, v.resolve_request_id)
LEFT JOIN card_event AS e
  ON (e.account_id, e.card_id, e.request_id) = (v.account_id, v.card_id, v.resolve_request_id)
LEFT JOIN recycling AS r ON (r.account_id, r.recycling_id) = (v.account_id, v.recycling_id)
WHERE v.state <> 'OPEN' AND NOT coalesce(
  c.create_time = v.resolve_time
  AND CASE v.state
    WHEN 'EXPIRED' THEN c.method = 'LapseHold' AND v.resolve_time = v.hold_until
    WHEN 'CLOSED' THEN c.method IN ('VoidCard', 'Reactivate', 'ResolveReview')
    ELSE c.method = 'ResolveReview' END
  AND (v.hold_until IS NULL OR v.state = 'EXPIRED' OR v.resolve_time < v.hold_until)
  AND CASE v.kind || ' ' || v.state
    WHEN 'RECYCLE APPROVED' THEN e.kind = 'RECYCLED' AND r.state IN ('APPROVED', 'REVERSED')
    WHEN 'RECYCLE DENIED' THEN e.kind = 'RELEASED' AND r.state = 'REJECTED'
      AND (r.decision -> 'reason_codes')::jsonb ? 'REVIEW_DENIED'
    WHEN 'RECYCLE EXPIRED' THEN e.kind = 'RELEASED' AND r.state = 'REJECTED'
      AND (r.decision -> 'reason_codes')::jsonb ? 'REVIEW_EXPIRED'
    WHEN 'RECYCLE CLOSED' THEN e.kind = 'VOIDED' AND r.state = 'REJECTED'
      AND (r.decision -> 'reason_codes')::jsonb ? 'CARD_VOIDED'
    WHEN 'REACTIVATE APPROVED' THEN e.kind = 'REACTIVATED' AND r.state = 'REVERSED'
    WHEN 'REACTIVATE DENIED' THEN e.kind = 'RELEASED'
    WHEN 'REACTIVATE EXPIRED' THEN e.kind = 'RELEASED'
    WHEN 'REACTIVATE CLOSED' THEN e.kind = 'VOIDED'
    WHEN 'SETTLEMENT APPROVED' THEN NOT r.settlement_held
    WHEN 'SETTLEMENT DENIED' THEN r.compensation_state = 'BLOCKED'
    WHEN 'SETTLEMENT CLOSED' THEN r.compensation_state IN ('BLOCKED', 'CANCELLED') END, false);

-- name: recyclings_have_commands (4)
-- Each recycling stems from one accepted Recycle of that moment, and no two from the same.
SELECT r.account_id, r.recycling_id, r.request_id, c.method
FROM (SELECT *, count(*) OVER (PARTITION BY account_id, request_id) AS twins FROM recycling) AS r
LEFT JOIN command AS c USING (account_id, request_id)
WHERE (c.method, c.create_time) IS DISTINCT FROM ('Recycle', r.create_time) OR r.twins > 1;

-- name: events_have_commands (4)
-- Each event of a card stems from one accepted command of a fitting method and its moment, and no two from the same.
SELECT e.account_id, e.card_id, e.version, e.kind, e.request_id, c.method
FROM (SELECT *, count(*) OVER (PARTITION BY account_id, request_id) AS twins FROM card_event) AS e
LEFT JOIN command AS c USING (account_id, request_id)
WHERE NOT coalesce(c.create_time = e.event_time AND c.method = ANY (CASE e.kind
        WHEN 'ISSUED' THEN ARRAY['IssueCards']
        WHEN 'ACTIVATED' THEN ARRAY['ActivateCard']
        WHEN 'RECYCLED' THEN ARRAY['Recycle', 'ResolveReview']
        WHEN 'REACTIVATED' THEN ARRAY['Reactivate', 'ResolveReview']
        WHEN 'VOIDED' THEN ARRAY['VoidCard']
        WHEN 'HELD' THEN ARRAY['Recycle', 'Reactivate']
        WHEN 'RELEASED' THEN ARRAY['ResolveReview', 'LapseHold']
        WHEN 'EXPIRED' THEN ARRAY['ExpireCard']
        WHEN 'CLOSED' THEN ARRAY['CloseWindow']
        WHEN 'BOUND' THEN ARRAY['BindDevice'] END), false)
   OR e.twins > 1;

-- name: postings_have_commands (4)
-- Each transfer stems from an accepted command of that moment: a Compensate, a Recycle that was settled at once, a
-- Reactivate, or the verdict for one; the end of a coupon from the service's own; and what wallets are used for.
SELECT p.account_id, p.request_id, p.recycling_id, p.ledger, p.kind, c.method
FROM posting AS p
LEFT JOIN command AS c USING (account_id, request_id)
WHERE NOT coalesce(c.create_time = p.create_time AND c.method = ANY (
        CASE p.kind WHEN 'SETTLEMENT' THEN ARRAY['Compensate', 'Recycle']
                    WHEN 'CLAWBACK' THEN ARRAY['Reactivate', 'ResolveReview']
                    WHEN 'EXPIRY' THEN ARRAY['ExpireCoupon'] WHEN 'REDEMPTION' THEN ARRAY['Redeem']
                    WHEN 'EXCHANGE' THEN ARRAY['Exchange'] WHEN 'GOODWILL' THEN ARRAY['Compensate'] END), false);

-- name: events_name_commands (4)
-- Each event that names a command was left by it, at its moment, and no two of a kind by the same. A recycle that was
-- settled at once leaves what it settled, too. AUTO_RECYCLE is the service's own.
SELECT e.account_id, e.seq, e.kind, e.event_time, e.request_id, c.method
FROM (SELECT *, count(*) OVER (PARTITION BY account_id, request_id, kind) AS twins
      FROM risk_event WHERE request_id IS NOT NULL) AS e
LEFT JOIN command AS c USING (account_id, request_id)
WHERE (c.method, c.create_time)
      IS DISTINCT FROM
      (CASE e.kind WHEN 'RECYCLE' THEN 'Recycle'
                   WHEN 'AUTO_RECYCLE' THEN CASE WHEN e.request_id::text ~ '^.{14}8.{4}[89ab]' THEN 'Recycle' END
                   WHEN 'REACTIVATE' THEN 'Reactivate' WHEN 'ACTIVATE' THEN 'ActivateCard'
                   WHEN 'COMPENSATE' THEN CASE c.method WHEN 'Recycle' THEN 'Recycle' ELSE 'Compensate' END
                   WHEN 'ISSUE' THEN 'IssueCards' END, e.event_time)
   OR e.twins > 1;

-- name: amounts_in_range (6)
-- Amounts lie between 1 and the cap, fees between 0 and the price, and no wallet is below zero.
SELECT 'recycling' AS relation, r.account_id, r.recycling_id::text AS id, r.amount, r.fee_minor
FROM recycling AS r
JOIN card AS c USING (account_id, card_id)
WHERE r.amount NOT BETWEEN 1 AND 1000000000000 OR r.fee_minor NOT BETWEEN 0 AND c.paid_minor
UNION ALL
SELECT 'posting', account_id, request_id::text, amount, NULL
FROM posting
WHERE abs(amount) NOT BETWEEN 1 AND 1000000000000
UNION ALL
SELECT 'wallet_balance', account_id, platform || ' ' || unit, amount, NULL
FROM wallet_balance
WHERE amount < 0;

-- name: terms_match_policy (6)
-- Each recycling that was not refused pays, keeps back and waits exactly as its policy revision prices its card, with the
-- terms of the card's tier and of the segment that its owner was in.
SELECT account_id, recycling_id, paid_minor, unused_us, base, fee, fee_minor, payout, amount, cap, max_discount_minor
FROM (
  SELECT priced.*, rule ->> 'kind' AS rule_kind, (rule ->> 'amount_max')::numeric AS amount_max,
         NULLIF(CASE WHEN unit_share IS NULL THEN plain ELSE div(plain * unit_share, 10000) END, 0) AS payout
  FROM (
   SELECT charged.*,
         CASE rule ->> 'kind'
           WHEN 'REFUND' THEN base - fee + div(base * bonus, 10000)
           WHEN 'PER_UNUSED_DAY' THEN
             CASE WHEN renewals_used = 0 OR coalesce((rule ->> 'renewed_card_earns')::boolean, true)
                  -- A day of a card that is cheaper than the revision has cards issued earns proportionately less.
                  THEN CASE WHEN face_value_minor < least_price THEN div(earned * face_value_minor, 10000 * least_price)
                            ELSE div(earned, 10000) END END
           WHEN 'DISCOUNT' THEN least(cap, 1)
         END AS plain,
         (SELECT (offered ->> 'basis_points')::numeric FROM jsonb_array_elements(segment_terms -> 'units') AS offered
          WHERE offered ->> 'unit' = asked_unit AND asked_unit <> rule ->> 'unit') AS unit_share
   FROM (
    SELECT based.*,
           div(base * coalesce(tier_terms ->> 'fee_basis_points', document ->> 'fee_basis_points')::numeric + 9999,
               10000) AS fee,
           coalesce(tier_terms ->> 'amount_per_day', rule ->> 'amount_per_day')::numeric
             * div(unused_us, 86400000000) * (10000 + bonus) AS earned,
           CASE WHEN rule ->> 'kind' = 'DISCOUNT'
                THEN div(paid_minor * (rule ->> 'basis_points')::numeric, 10000) END AS cap
    FROM (
      SELECT r.*, c.paid_minor, c.face_value_minor, e.renewals_used, p.document, p.document -> 'compensation' AS rule,
             (p.document ->> 'face_value_per_day_min')::numeric * c.duration_days AS least_price,
             p.document #> ARRAY['tiers', c.tier] AS tier_terms,
             p.document #> ARRAY['segments', n.receipt #>> '{card,segment}'] AS segment_terms,
             coalesce(n.receipt #>> '{input,2}', p.document #>> '{compensation,unit}') AS asked_unit,
             -- Whole basis points, and no more than the revision allows.
             least(coalesce((SELECT div(q.bonus::numeric, 1000000) FROM price AS q
                             WHERE (q.platform, q.tier) = (c.platform, c.tier)
                               AND q.from_time <= r.create_time AND r.create_time < q.until_time
                             ORDER BY q.from_time DESC LIMIT 1), 0),
                   coalesce((p.document #>> '{pricing,bonus_max_basis_points}')::numeric, 0)) AS bonus,
             EXISTS (SELECT FROM posting AS paid
                     WHERE (paid.account_id, paid.request_id, paid.recycling_id)
                           = (r.account_id, r.request_id, r.recycling_id)) AS paid_at_once,
             div(c.paid_minor::numeric * r.unused_us, c.duration_days * 86400000000::numeric) AS base
      FROM recycling AS r
      JOIN card AS c USING (account_id, card_id)
      JOIN policy_revision AS p ON (p.platform, p.revision) = (r.platform, r.policy_revision)
      LEFT JOIN command AS n ON (n.account_id, n.request_id) = (r.account_id, r.request_id)
      LEFT JOIN card_event AS e
        ON (e.account_id, e.recycling_id) = (r.account_id, r.recycling_id)
       AND e.kind = CASE r.state WHEN 'IN_REVIEW' THEN 'HELD' ELSE 'RECYCLED' END
      WHERE r.state <> 'REJECTED'
    ) AS based
   ) AS charged
  ) AS priced
) AS r
WHERE (fee_minor, amount, settle_after_time)
      IS DISTINCT FROM
      (fee, payout,
       create_time + CASE WHEN paid_at_once THEN 0 ELSE 1 END
                   * ((document ->> 'settle_after_days')::integer
                      + CASE WHEN (decision ->> 'explored')::boolean
                             THEN (document #>> '{risk,exploration,settle_after_days}')::integer ELSE 0 END)
                     * interval '24 hours')
   OR amount > amount_max
   OR (paid_at_once AND NOT coalesce((segment_terms ->> 'settle_with_recycle')::boolean
                                     AND amount <= (document ->> 'instant_settlement_max')::bigint, false))
   OR NOT document -> 'trigger' -> 'reasons' ? reason
   OR NOT document -> 'trigger' -> 'card_states' ? prior_state
   OR NOT document -> 'dispositions' @> jsonb_build_array(jsonb_build_object('disposition', disposition))
   OR (payout IS NOT NULL
       AND (unit, basis_points, max_discount_minor, coupon_expire_time)
           IS DISTINCT FROM
           (asked_unit, CASE WHEN rule_kind = 'DISCOUNT' THEN (rule ->> 'basis_points')::integer END, cap,
            CASE WHEN rule_kind = 'DISCOUNT'
                 THEN create_time + (rule ->> 'valid_days')::integer * interval '24 hours' END));

-- name: redemptions_match_offers (6)
-- Each redemption was paid for and given exactly as the policy in force offered it, and within the offer's limit.
SELECT coalesce(q.account_id, p.account_id) AS account_id, redemption_id, q.platform, q.policy_revision, a.revision AS in_force, q.offer_id, q.unit, q.price, p.legs
FROM redemption AS q
FULL JOIN (
  SELECT account_id, redemption_id, array_agg(DISTINCT request_id) AS request_ids,
         array_agg(DISTINCT platform) AS platforms, array_agg(unit || ' ' || amount ORDER BY amount) AS legs
  FROM posting WHERE kind = 'REDEMPTION' AND ledger = 'WALLET'
  GROUP BY account_id, redemption_id
) AS p USING (account_id, redemption_id)
LEFT JOIN command AS c ON (c.account_id, c.request_id) = (q.account_id, q.request_id)
LEFT JOIN LATERAL (
  SELECT revision FROM policy_activation
  WHERE platform = q.platform AND effective_time <= q.create_time
  ORDER BY effective_time DESC, activation DESC LIMIT 1
) AS a ON true
LEFT JOIN policy_revision AS v ON (v.platform, v.revision) = (q.platform, q.policy_revision)
LEFT JOIN LATERAL (
  SELECT each FROM jsonb_array_elements(v.document -> 'offers') AS each WHERE each ->> 'offer_id' = q.offer_id
) AS offer (o) ON true
WHERE NOT coalesce(
  (c.method, c.create_time, a.revision, p.request_ids, p.platforms)
    = ('Redeem', q.create_time, q.policy_revision, ARRAY[q.request_id], ARRAY[q.platform])
  AND (q.partner, q.title, q.unit, q.price, q.benefit, q.value_minor, q.basis_points, q.valid_days)
    = (o ->> 'partner', o ->> 'title', o ->> 'unit', (o ->> 'price')::bigint, o #>> '{benefit,kind}',
       (o #>> '{benefit,value_minor}')::bigint, coalesce((o #>> '{benefit,basis_points}')::integer, 0),
       coalesce((o #>> '{benefit,valid_days}')::integer, 0))
  AND q.expire_time IS NOT DISTINCT FROM
      CASE q.benefit WHEN 'COUPON' THEN q.create_time + q.valid_days * interval '24 hours' END
  AND p.legs = ARRAY[q.unit || ' -' || q.price] || CASE q.benefit WHEN 'COUPON' THEN ARRAY['COUPON 1'] ELSE '{}' END
  AND (o ->> 'account_max' IS NULL OR (
         SELECT count(*) FROM redemption AS e
         WHERE (e.account_id, e.platform, e.offer_id) = (q.account_id, q.platform, q.offer_id)
           AND e.create_time <= q.create_time AND e.create_time > q.create_time - interval '720 hours'
       ) <= (o ->> 'account_max')::bigint), false);

-- name: exchanges_match_rates (6)
-- Each exchange has given what was asked, for what the rate in force makes of it, and no more than that allows.
SELECT account_id, request_id, c.receipt -> 'input' AS asked, x.legs, r.rate
FROM (SELECT * FROM command WHERE method = 'Exchange') AS c
FULL JOIN (
  SELECT account_id, request_id, array_agg(platform || ' ' || unit || ' ' || amount ORDER BY amount) AS legs
  FROM posting WHERE kind = 'EXCHANGE' AND ledger = 'WALLET'
  GROUP BY account_id, request_id
) AS x USING (account_id, request_id)
LEFT JOIN LATERAL (
  SELECT p.revision FROM policy_activation AS p
  WHERE p.platform = c.receipt #>> '{input,0}' AND p.effective_time <= c.create_time
  ORDER BY p.effective_time DESC, p.activation DESC LIMIT 1
) AS a ON true
LEFT JOIN LATERAL (
  SELECT each FROM policy_revision AS v, jsonb_array_elements(v.document -> 'exchange') AS each
  WHERE (v.platform, v.revision) = (c.receipt #>> '{input,0}', a.revision)
    AND (each ->> 'unit', each ->> 'to_platform', each ->> 'to_unit')
        = (c.receipt #>> '{input,1}', c.receipt #>> '{input,3}', c.receipt #>> '{input,4}')
) AS r (rate) ON true
WHERE NOT coalesce(
  x.legs = ARRAY[
    concat_ws(' ', c.receipt #>> '{input,0}', c.receipt #>> '{input,1}', '-' || (c.receipt #>> '{input,2}')),
    concat_ws(' ', c.receipt #>> '{input,3}', c.receipt #>> '{input,4}',
              div((c.receipt #>> '{input,2}')::numeric * (rate ->> 'get')::numeric
                  * (10000 - (rate ->> 'spread_basis_points')::numeric), (rate ->> 'give')::numeric * 10000))]
  AND (c.receipt #>> '{input,2}')::numeric <= (rate ->> 'amount_max')::numeric, false);

-- name: goodwill_within_caps (6)
-- Each grant was posted once and exactly, as its recycling's own policy allows: of its unit, within both caps.
SELECT coalesce(g.account_id, p.account_id) AS account_id, coalesce(g.request_id, p.request_id) AS request_id,
       g.recycling_id, g.unit, g.amount, p.amount AS posted, v.document -> 'goodwill' AS rule
FROM goodwill AS g
FULL JOIN (SELECT * FROM posting WHERE kind = 'GOODWILL' AND ledger = 'WALLET') AS p USING (account_id, request_id)
LEFT JOIN command AS c ON (c.account_id, c.request_id) = (g.account_id, g.request_id)
LEFT JOIN recycling AS r ON (r.account_id, r.recycling_id) = (g.account_id, g.recycling_id)
LEFT JOIN policy_revision AS v ON (v.platform, v.revision) = (r.platform, r.policy_revision)
WHERE NOT coalesce(
  (c.method, c.create_time, p.create_time, p.platform, p.unit, p.amount, r.platform, r.policy_revision)
    = ('Compensate', g.create_time, g.create_time, g.platform, g.unit, g.amount, g.platform, g.policy_revision)
  AND g.unit = v.document #>> '{goodwill,unit}'
  AND g.amount <= (v.document #>> '{goodwill,amount_max}')::bigint
  AND (SELECT sum(e.amount) FROM goodwill AS e
       WHERE (e.account_id, e.platform) = (g.account_id, g.platform)
         AND e.create_time <= g.create_time AND e.create_time > g.create_time - interval '720 hours'
         -- Of what was granted at the same moment by another revision it is not known which came first.
         AND (e.create_time < g.create_time OR e.policy_revision = g.policy_revision))
      <= (v.document #>> '{goodwill,account_max}')::bigint, false);

-- name: dispositions_are_best (14)
-- What became of a card is allowed, and worth as much as any other way that was, but for the rounding of doubles; and each
-- way's worth is what its parts come to.
SELECT r.account_id, r.recycling_id, r.disposition, a.disposition AS other, a.revenue, a.probability, a.cost, a.y
FROM recycling AS r
CROSS JOIN json_to_recordset(r.decision -> 'alternatives')
  AS a (disposition text, revenue double precision, probability double precision, cost double precision,
        y double precision, allowed boolean, recycling_cost double precision, opportunity_cost double precision,
        user_damage double precision)
WHERE (r.disposition IS NOT NULL AND (
         (a.allowed AND EXISTS (
           SELECT FROM json_to_recordset(r.decision -> 'alternatives')
             AS b (disposition text, revenue double precision, cost double precision, y double precision)
           WHERE b.disposition = r.disposition
             AND a.y > b.y + 1e-12 * greatest(1, abs(a.revenue), abs(a.cost), abs(b.revenue), abs(b.cost))))
         OR (a.disposition = r.disposition AND NOT a.allowed)))
   OR abs(a.revenue * a.probability - a.cost - a.y) > 1e-9 * greatest(1, abs(a.revenue), a.cost)
   OR abs(a.recycling_cost + a.opportunity_cost + a.user_damage - a.cost) > 1e-9 * greatest(1, a.cost);

-- name: cards_never_gain (7)
-- What a card has paid and still owes, over all its generations, is never worth more than its price, whatever the unit.
-- The price is what was paid for it, or its face value where a policy pays by the day. A unit is worth the most that the
-- exchanges and offers in force at the recycle could make of it, within eight exchanges; a coin is worth 1 at least.
WITH epoch AS MATERIALIZED (
  SELECT effective_time AS begin_time, lead(effective_time) OVER (ORDER BY effective_time) AS end_time
  FROM (SELECT DISTINCT effective_time FROM policy_activation) AS change
),
rules AS MATERIALIZED (
  SELECT e.begin_time, known.platform, p.document
  FROM epoch AS e
  CROSS JOIN (SELECT DISTINCT platform FROM policy_activation) AS known
  CROSS JOIN LATERAL (
    SELECT revision FROM policy_activation AS a
    WHERE a.platform = known.platform AND a.effective_time <= e.begin_time
    ORDER BY a.effective_time DESC, a.activation DESC LIMIT 1
  ) AS governs
  JOIN policy_revision AS p ON (p.platform, p.revision) = (known.platform, governs.revision)
),
-- From each holding to each other, and to itself at 1; twice as far with each step.
one AS MATERIALIZED (
  SELECT begin_time, here, there, max(rate) AS rate
  FROM (
    SELECT r.begin_time, ARRAY[r.platform, way ->> 'unit'] AS here, ARRAY[way ->> 'to_platform', way ->> 'to_unit'] AS there,
           (way ->> 'get')::float8 / (way ->> 'give')::float8
           * (10000 - coalesce((way ->> 'spread_basis_points')::float8, 0)) / 10000 AS rate
    FROM rules AS r CROSS JOIN jsonb_path_query(r.document, '$.exchange[*]') AS way
    UNION ALL
    SELECT r.begin_time, ARRAY[r.platform, unit], ARRAY[r.platform, unit], 1
    FROM rules AS r CROSS JOIN unnest(ARRAY['COIN', 'GROWTH_POINT']) AS unit
  ) AS way
  GROUP BY begin_time, here, there
),
two AS MATERIALIZED (
  SELECT a.begin_time, a.here, b.there, max(a.rate * b.rate) AS rate
  FROM one AS a JOIN one AS b ON (b.begin_time, b.here) = (a.begin_time, a.there)
  GROUP BY a.begin_time, a.here, b.there
),
four AS MATERIALIZED (
  SELECT a.begin_time, a.here, b.there, max(a.rate * b.rate) AS rate
  FROM two AS a JOIN two AS b ON (b.begin_time, b.here) = (a.begin_time, a.there)
  GROUP BY a.begin_time, a.here, b.there
),
eight AS MATERIALIZED (
  SELECT a.begin_time, a.here, b.there, max(a.rate * b.rate) AS rate
  FROM four AS a JOIN four AS b ON (b.begin_time, b.here) = (a.begin_time, a.there)
  GROUP BY a.begin_time, a.here, b.there
),
bought AS MATERIALIZED (
  SELECT r.begin_time, ARRAY[r.platform, offer ->> 'unit'] AS there,
         (offer #>> '{benefit,value_minor}')::float8 / (offer ->> 'price')::float8 AS value
  FROM rules AS r CROSS JOIN jsonb_path_query(r.document, '$.offers[*]') AS offer
  UNION ALL
  SELECT begin_time, ARRAY[platform, 'COIN'], 1 FROM rules
),
worth AS MATERIALIZED (
  SELECT w.begin_time, e.end_time, w.here[1] AS platform, w.here[2] AS unit, max(w.rate * b.value) AS value
  FROM eight AS w
  JOIN bought AS b ON (b.begin_time, b.there) = (w.begin_time, w.there)
  JOIN epoch AS e ON e.begin_time = w.begin_time
  GROUP BY w.begin_time, e.end_time, w.here
)
SELECT account_id, card_id, max(price) AS price, sum(paid_out) AS paid_out_minor
FROM (
  SELECT c.account_id, c.card_id, coalesce(r.max_discount_minor, r.amount * coalesce(w.value, 0)) AS paid_out,
         CASE p.document #>> '{compensation,kind}' WHEN 'PER_UNUSED_DAY' THEN c.face_value_minor
              ELSE c.paid_minor END AS price
  FROM card AS c
  JOIN recycling AS r USING (account_id, card_id)
  LEFT JOIN policy_revision AS p ON (p.platform, p.revision) = (r.platform, r.policy_revision)
  LEFT JOIN worth AS w
    ON (w.platform, w.unit) = (r.platform, r.unit)
   AND w.begin_time <= r.create_time AND (w.end_time IS NULL OR r.create_time < w.end_time)
  WHERE r.unit IS NOT NULL AND r.compensation_state IN ('PENDING', 'SETTLED')
) AS owed
GROUP BY account_id, card_id
-- Rates are fractions; what is lost of them in floating point is far less.
HAVING sum(paid_out) * (1 - 1e-14::float8) > max(price);

-- name: compensations_match_postings (8)
-- What is settled was posted once in full, what was clawed back was posted back exactly, and nothing else was posted.
SELECT account_id, recycling_id, r.compensation_state, r.unit, r.amount, p.settled, p.clawed_back
FROM (SELECT * FROM recycling WHERE unit IS NOT NULL) AS r
FULL JOIN (
  SELECT account_id, recycling_id,
         min(platform) AS platform, min(unit) AS unit, count(DISTINCT (platform, unit)) AS units,
         array_agg(amount ORDER BY ledger) FILTER (WHERE kind = 'SETTLEMENT') AS settled,
         array_agg(amount ORDER BY ledger) FILTER (WHERE kind = 'CLAWBACK') AS clawed_back
  FROM posting WHERE recycling_id IS NOT NULL
  GROUP BY account_id, recycling_id
) AS p USING (account_id, recycling_id)
-- Each array holds the platform's leg, then the wallet's.
WHERE p.settled IS DISTINCT FROM
        CASE WHEN r.compensation_state IN ('SETTLED', 'CLAWED_BACK') THEN ARRAY[-r.amount, r.amount] END
   OR p.clawed_back IS DISTINCT FROM
        CASE WHEN r.compensation_state = 'CLAWED_BACK' THEN ARRAY[r.amount, -r.amount] END
   OR (p.units IS NOT NULL AND (p.units, p.platform, p.unit) IS DISTINCT FROM (1::bigint, r.platform, r.unit));

-- name: settlements_were_due (8)
-- Nothing was settled before it was due, nor what the risk of its recycling held back before a reviewer approved it.
-- What was explored, or allowed by a list, is settled whatever its band.
SELECT p.account_id, p.recycling_id, p.create_time, r.settle_after_time, r.settlement_held,
       r.decision ->> 'risk_band' AS risk_band
FROM posting AS p
JOIN recycling AS r USING (account_id, recycling_id)
WHERE p.kind = 'SETTLEMENT' AND p.ledger = 'WALLET'
  AND (r.settlement_held OR p.create_time < r.settle_after_time
       OR (r.decision ->> 'risk_band' IS DISTINCT FROM 'LOW'
           AND NOT coalesce((r.decision ->> 'explored')::boolean, false)
           AND NOT coalesce(r.decision::jsonb -> 'list_hits' @> '[{"list": "ALLOW"}]', false)
           AND NOT EXISTS (
             SELECT FROM review AS v
             WHERE (v.account_id, v.recycling_id, v.state) = (r.account_id, r.recycling_id, 'APPROVED')
               AND v.kind IN ('RECYCLE', 'SETTLEMENT') AND v.resolve_time <= p.create_time)));

-- name: holds_keep_terms (8)
-- What an approval applied, or may yet, are the terms that were held; where a hold ended otherwise nothing is owed.
SELECT r.account_id, r.recycling_id, v.state, r.disposition, t.disposition AS held_disposition, r.fee_minor,
       t.fee_minor AS held_fee_minor, r.unit, r.amount, t.amount AS held_amount
FROM review AS v
JOIN recycling AS r USING (account_id, recycling_id)
CROSS JOIN json_populate_record(NULL::recycling, v.terms) AS t
WHERE v.kind = 'RECYCLE'
  AND CASE WHEN v.state IN ('OPEN', 'APPROVED') THEN
    (r.disposition, r.fee_minor, r.unit, r.amount, r.basis_points, r.coupon_expire_time, r.max_discount_minor,
     r.settle_after_time)
    IS DISTINCT FROM
    (t.disposition, t.fee_minor, t.unit, t.amount, t.basis_points, t.coupon_expire_time, t.max_discount_minor,
     t.settle_after_time)
  ELSE (r.state, r.fee_minor, r.unit) IS DISTINCT FROM ('REJECTED', 0::bigint, NULL::text) END;

-- name: windows_move_by_holds (8)
-- The time in which a card can come back is prolonged by just as long as it was held for that.
SELECT r.account_id, r.recycling_id, r.window_moved_us, h.held
FROM recycling AS r
LEFT JOIN (
  SELECT account_id, recycling_id,
         sum(CASE WHEN state = 'DENIED' THEN resolve_time ELSE hold_until END - create_time) AS held
  FROM review
  WHERE kind = 'REACTIVATE'
  GROUP BY account_id, recycling_id
) AS h USING (account_id, recycling_id)
WHERE r.window_moved_us * interval '1 microsecond' <> coalesce(h.held, interval '0');

-- name: blocked_when_paid_back (8)
-- A compensation is blocked exactly when a VoidCard found it pending for a card paid back, or a review denied it.
SELECT account_id, recycling_id, r.compensation_state, v.request_id
FROM (SELECT * FROM recycling WHERE compensation_state = 'BLOCKED') AS r
FULL JOIN (
  SELECT account_id, request_id, (receipt #>> '{recycling,recycling_id}')::uuid AS recycling_id
  FROM command
  WHERE method = 'VoidCard' AND receipt #>> '{input,1}' IN ('REFUNDED', 'CHARGEBACK')
    AND receipt #>> '{recycling,compensation,state}' = 'PENDING'
    -- What is still in review is not owed; a void rejects it.
    AND receipt #>> '{recycling,state}' IS DISTINCT FROM 'IN_REVIEW'
  UNION ALL
  SELECT account_id, resolve_request_id, recycling_id FROM review WHERE kind = 'SETTLEMENT' AND state = 'DENIED'
) AS v USING (account_id, recycling_id)
WHERE r.recycling_id IS NULL OR v.recycling_id IS NULL;

-- name: reversals_take_back (8)
-- A compensation is taken back or lapses exactly when its recycling is undone, or was blocked before.
SELECT account_id, recycling_id, state, compensation_state
FROM recycling
WHERE (state = 'REVERSED' AND compensation_state NOT IN ('CLAWED_BACK', 'CANCELLED', 'BLOCKED'))
   OR (state <> 'REVERSED' AND compensation_state IN ('CLAWED_BACK', 'CANCELLED'));

-- name: nothing_from_the_future (10)
-- Nothing is recorded later than the clock, nor before its card was issued.
SELECT relation, account_id, id, recorded_time, issue_time
FROM (
  SELECT 'card' AS relation, account_id, card_id::text AS id, issue_time AS recorded_time,
         NULL::timestamptz AS issue_time
  FROM card
  UNION ALL
  SELECT 'card_event', e.account_id, e.card_id::text, e.event_time, c.issue_time
  FROM card_event AS e JOIN card AS c USING (account_id, card_id)
  UNION ALL
  SELECT 'recycling', r.account_id, r.recycling_id::text, r.create_time, c.issue_time
  FROM recycling AS r JOIN card AS c USING (account_id, card_id)
  UNION ALL
  SELECT 'review', v.account_id, v.review_id::text, coalesce(v.resolve_time, v.create_time), v.create_time
  FROM review AS v
  UNION ALL
  SELECT 'posting', p.account_id, p.request_id::text, p.create_time, r.create_time
  FROM posting AS p LEFT JOIN recycling AS r USING (account_id, recycling_id)
  UNION ALL
  SELECT 'command', account_id, request_id::text, create_time, NULL FROM command
  UNION ALL
  SELECT 'outcome', o.account_id, o.recycling_id::text, o.record_time, NULL FROM outcome AS o
  UNION ALL
  SELECT 'outcome', o.account_id, o.recycling_id::text, o.outcome_time, r.create_time
  FROM outcome AS o JOIN recycling AS r USING (account_id, recycling_id)
  UNION ALL
  SELECT 'risk_event', account_id, seq::text, event_time, NULL FROM risk_event
) AS record
WHERE recorded_time > (SELECT service_clock()) OR recorded_time < issue_time;

-- name: policies_of_record (14)
-- Each recycling names a policy revision that exists, of its card's platform.
SELECT r.account_id, r.recycling_id, c.platform AS card_platform, r.platform, r.policy_revision
FROM recycling AS r
JOIN card AS c USING (account_id, card_id)
LEFT JOIN policy_revision AS p ON (p.platform, p.revision) = (r.platform, r.policy_revision)
WHERE r.platform <> c.platform OR p.revision IS NULL;

-- name: prices_follow_from_markets (14)
-- Each bonus is what its market and the bonus before it make by the rule of its policy revision.
SELECT platform, tier, from_time, demand, supply, waiting, prior_bonus, bonus, wanted_bonus
FROM (
  SELECT q.*,
         least(greatest(q.prior + floor((target - q.prior) * smoothing / 10000), 0), bonus_max) AS wanted_bonus
  FROM (
    SELECT r.*, least(r.prior_bonus, r.bonus_max) AS prior,
           CASE WHEN r.demand + r.supply = 0 THEN 0
                ELSE div(r.bonus_max * greatest(r.demand - r.supply, 0) * greatest(r.capacity - r.waiting, 0),
                         (r.demand + r.supply) * r.capacity) END AS target
    FROM (
      SELECT p.*, (v.document #>> '{pricing,bonus_max_basis_points}')::numeric * 1000000 AS bonus_max,
             (v.document #>> '{pricing,pool_capacity}')::numeric AS capacity,
             (v.document #>> '{pricing,smoothing_basis_points}')::numeric AS smoothing
      FROM price AS p
      LEFT JOIN policy_revision AS v ON (v.platform, v.revision) = (p.platform, p.policy_revision)
    ) AS r
  ) AS q
) AS w
WHERE bonus IS DISTINCT FROM wanted_bonus;

-- name: decided_by_the_policy_in_force (14)
-- Each recycling was decided by the revision of its platform that governed at that moment.
SELECT r.account_id, r.recycling_id, r.platform, r.policy_revision, r.create_time, a.revision AS in_force
FROM recycling AS r
LEFT JOIN LATERAL (
  SELECT revision FROM policy_activation
  WHERE platform = r.platform AND effective_time <= r.create_time
  ORDER BY effective_time DESC, activation DESC LIMIT 1
) AS a ON true
WHERE r.policy_revision IS DISTINCT FROM a.revision;

-- name: outcomes_name_recyclings (14)
-- Each outcome is of a recycling that exists.
SELECT o.account_id, o.recycling_id, o.kind, o.outcome_time
FROM outcome AS o
LEFT JOIN recycling AS r USING (account_id, recycling_id)
WHERE r.recycling_id IS NULL;

-- name: outcomes_match_recyclings (14)
-- Each outcome tells how its recycling was decided, and a state that it is in or can have been in before.
SELECT o.account_id, o.recycling_id, o.kind, o.outcome_time, o.platform, o.policy_revision, o.model_version,
       o.risk_score, o.state, r.state AS state_today
FROM outcome AS o
JOIN recycling AS r USING (account_id, recycling_id)
WHERE (o.platform, o.policy_revision, o.model_version, o.risk_score)
      IS DISTINCT FROM
      (r.platform, r.policy_revision, r.decision ->> 'model_version', (r.decision ->> 'risk_score')::float8)
   OR NOT o.state = ANY (CASE r.state
        WHEN 'IN_REVIEW' THEN ARRAY['IN_REVIEW']
        WHEN 'REVERSED' THEN ARRAY['REVERSED', 'APPROVED', 'IN_REVIEW']
        ELSE ARRAY[r.state, 'IN_REVIEW'] END);

-- name: records_are_append_only (16)
-- The server's role may neither change nor remove what was recorded for ever.
SELECT recorded.relation::text, privilege
FROM (
  SELECT to_regclass(name) AS relation
  FROM unnest(ARRAY['policy_revision', 'policy_activation', 'price', 'card_serial', 'card_event', 'posting', 'coupon', 'command', 'risk_event',
                    'risk_pair', 'risk_link', 'risk_label', 'list_entry', 'outcome', 'redemption', 'goodwill']) AS name
  UNION ALL
  SELECT inhrelid::regclass FROM pg_inherits WHERE inhparent = 'risk_event'::regclass
) AS recorded
CROSS JOIN unnest(ARRAY['UPDATE', 'DELETE', 'TRUNCATE']) AS privilege
WHERE has_table_privilege('recycling_server', recorded.relation, privilege)
   OR (privilege = 'UPDATE' AND has_any_column_privilege('recycling_server', recorded.relation, 'UPDATE'));

-- name: events_are_kept_for_180_days (16)
-- No part of the risk log expired before all its events were 180 days old.
SELECT before_time, expire_time FROM risk_event_expiry WHERE before_time > expire_time - interval '180 days';

-- name: risk_pairs_are_complete (17)
-- All that a risk event shows together is remembered as seen together by then.
-- A minute's grace: two servers may record a quote and a recycle of one account in the other order than they began.
SELECT e.account_id, e.seq, e.event_time, pair.kind, p.first_time
FROM risk_event AS e
CROSS JOIN LATERAL risk_pairs(
  e.kind, e.card_id, e.device_hash, e.address_hash, e.profile_hash, e.serial_block, e.amount_minor) AS pair
LEFT JOIN risk_pair AS p
  ON (p.account_id, p.kind, p.key, p.other) = (e.account_id, pair.kind, pair.key, pair.other)
WHERE p.first_time IS NULL OR p.first_time > e.event_time + interval '1 minute';

-- name: risk_links_are_complete (17)
-- All that a risk event shows of its device and address is remembered by then, whichever account it was.
SELECT e.account_id, e.seq, e.event_time, link.kind, k.first_time
FROM risk_event AS e
CROSS JOIN LATERAL risk_links(e.card_id, e.device_hash, e.address_hash, e.profile_hash) AS link
LEFT JOIN risk_link AS k ON (k.kind, k.key, k.other) = (link.kind, link.key, link.other)
WHERE k.first_time IS NULL OR k.first_time > e.event_time + interval '1 minute';

-- name: confirmed_abuse_is_remembered (17)
-- Every device of an account whose abuse is confirmed is marked since both are so, and no other device is.
-- Of an event and a label that were recorded at the same time neither may have seen the other.
SELECT account_id, key, d.since, m.first_time
FROM (
  SELECT p.account_id, p.key, greatest(p.first_time, l.label_time) AS since,
         abs(extract(epoch FROM p.first_time - l.create_time)) > 60 AS apart
  FROM risk_pair AS p
  JOIN (
    SELECT account_id, min(label_time) AS label_time, min(create_time) AS create_time
    FROM risk_label WHERE label = 1 GROUP BY account_id
  ) AS l USING (account_id)
  WHERE p.kind = 1
) AS d
FULL JOIN (SELECT * FROM risk_pair WHERE kind = 8) AS m USING (account_id, key)
WHERE d.since IS NULL OR (m.first_time IS NULL AND d.apart) OR m.first_time < d.since;

-- name: complaints_are_events (17)
-- Each complaint is an event of its account too, from when it became known, and no other event is a complaint.
-- Of those that became known before the risk log's beginning there is no event any more.
SELECT account_id, recycling_id, known_time, o.complaints, e.events
FROM (
  SELECT account_id, recycling_id, record_time AS known_time, count(*) AS complaints
  FROM outcome
  WHERE kind = 'COMPLAINT' AND record_time >= (SELECT coalesce(max(before_time), '-infinity') FROM risk_event_expiry)
  GROUP BY account_id, recycling_id, record_time
) AS o
FULL JOIN (
  SELECT account_id, recycling_id, event_time AS known_time, count(*) AS events
  FROM risk_event WHERE kind = 'COMPLAINT'
  GROUP BY account_id, recycling_id, event_time
) AS e USING (account_id, recycling_id, known_time)
WHERE o.complaints IS DISTINCT FROM e.events;

-- name: verdicts_are_labelled (17)
-- Each verdict labels the request that was reviewed, from then on: denied as abuse, at the latest, approved as honest.
-- No other end of a review, and no open one, labels anything.
SELECT account_id, review_id, v.kind, v.state, v.resolve_time, l.label, l.label_time
FROM review AS v
FULL JOIN (SELECT * FROM risk_label WHERE source = 'review' AND request_id IS NOT NULL) AS l
  USING (account_id, recycling_id, request_id)
WHERE (v.state IN ('APPROVED', 'DENIED') OR v.state IS NULL OR l.label IS NOT NULL)
  AND NOT coalesce(
    v.state IN ('APPROVED', 'DENIED') AND l.label = CASE v.state WHEN 'DENIED' THEN 1 ELSE 0 END
    AND v.resolve_time <= l.label_time, false)
  -- Abuse that was known already becomes known once. A minute's grace: outcomes are told beside the verdict.
  AND NOT coalesce(l.label IS NULL AND v.state = 'DENIED' AND EXISTS (
    SELECT FROM risk_label AS known
    WHERE (known.account_id, known.recycling_id, known.label) = (v.account_id, v.recycling_id, 1)
      AND (known.request_id = v.request_id OR (known.request_id IS NULL AND v.kind <> 'REACTIVATE'))
      AND known.label_time <= v.resolve_time + interval '1 minute'), false);

-- name: abuse_is_labelled (17)
-- A recycling's abuse that was told is known to features from then on, at the latest; a verdict on undoing it is another's.
SELECT o.account_id, o.recycling_id, o.known_time
FROM (
  SELECT account_id, recycling_id, min(record_time) AS known_time
  FROM outcome WHERE kind IN ('CHARGEBACK', 'CONFIRMED_FRAUD')
  GROUP BY account_id, recycling_id
) AS o
LEFT JOIN recycling AS r USING (account_id, recycling_id)
WHERE NOT EXISTS (SELECT FROM risk_label AS l
                  WHERE (l.account_id, l.recycling_id, l.label) = (o.account_id, o.recycling_id, 1)
                    AND (l.request_id IS NULL OR l.request_id = r.request_id)
                    AND l.label_time <= o.known_time);

-- name: events_are_told (5)
-- Every event was written by a transaction that has begun, so that the stream of events comes to it.
SELECT account_id, subject_id, version, xact
FROM event_feed
WHERE xact >= pg_snapshot_xmax(pg_current_snapshot());

-- name: relays_stand_at_events (5)
-- What relays have published ends with an event that is on record.
SELECT r.relay, r.xact, r.account_id, r.subject_id, r.version
FROM event_relay AS r
WHERE r.xact IS NOT NULL AND NOT EXISTS (
  SELECT FROM event_feed AS f
  WHERE f.account_id = r.account_id AND f.subject_id = r.subject_id AND f.version = r.version AND f.xact = r.xact
    AND f.event_time = r.event_time
);
