"""The checker of invariants: a sound history passes, and every planted violation is named, on a real Postgres."""

import json

import asyncpg
import pytest

from migrations.invariants import SAMPLES_MAX, InvariantResult, check_invariants, invariants
from tests.conftest import FreshDatabase
from tests.unit.test_cli import recycling

# Account a has card 1: recycled (11, settled), given back (clawed back), recycled again (12, settled); card 2: recycled
# for a coupon (13); card 3: its attempt was refused (14); card 4: recycled unused (15) and voided, its payment charged
# back; card 5: recycled for points (16, settled), given back at the second attempt (clawed back), recycled again for
# nothing (17). Ids end in these numbers; a recycling's command is 100 above it. A step is a minute.
HISTORY = """
CREATE FUNCTION id(number integer) RETURNS uuid LANGUAGE sql IMMUTABLE
  RETURN ('00000000-0000-7000-8000-' || lpad(number::text, 12, '0'))::uuid;
CREATE FUNCTION at(step integer) RETURNS timestamptz LANGUAGE sql IMMUTABLE
  RETURN timestamptz '2026-01-01 00:00:00Z' + step * interval '1 minute';
UPDATE backtest_clock SET shifted_time = at(2000);

INSERT INTO policy_revision (platform, revision, document, document_sha256, effective_time)
VALUES ('iqiyi', 1, '{
          "trigger": {"reasons": ["VOLUNTARY"], "card_states": ["ISSUED", "ACTIVE"]}, "fee_basis_points": 1000,
          "compensation": {"kind": "REFUND", "unit": "COIN", "amount_max": 3000},
          "dispositions": [{"disposition": "VOUCHER"}],
          "reactivation": {"validity": "AS_TAKEN", "window_days": 180},
          "settle_after_days": 0}', sha256(''), at(0)),
       ('netflix', 1, '{
          "trigger": {"reasons": ["EXPIRED"], "card_states": ["EXPIRED"]}, "fee_basis_points": 0,
          "compensation": {"kind": "DISCOUNT", "unit": "COUPON", "basis_points": 500, "valid_days": 90,
                           "amount_max": 1},
          "dispositions": [{"disposition": "CANCEL"}], "reactivation": null,
          "settle_after_days": 0}', sha256(''), at(0)),
       ('tencent', 1, '{
          "trigger": {"reasons": ["SYSTEM_ANOMALY"], "card_states": ["ISSUED", "ACTIVE"]}, "fee_basis_points": 0,
          "compensation": {"kind": "PER_UNUSED_DAY", "unit": "GROWTH_POINT", "amount_per_day": 10,
                           "renewed_card_earns": false, "amount_max": 1000000},
          "dispositions": [{"disposition": "RESET_VALIDITY"}, {"disposition": "CANCEL"}],
          "reactivation": {"validity": "FULL"}, "settle_after_days": 0}', sha256(''), at(0));
INSERT INTO account (account_id, version, create_time) VALUES ('a', 9, at(0));

INSERT INTO card (account_id, card_id, external_serial, platform, tier, state, face_value_minor, paid_minor, currency,
                  duration_days, issue_time, activate_time, expire_time, generation, renewals_used, live_recycling_id,
                  version)
VALUES
  ('a', id(1), 'S1', 'iqiyi', 'BASIC', 'RECYCLED', 2999, 2999, 'CNY', 30, at(1), at(2), at(43204), 2, 0, id(12), 5),
  ('a', id(2), NULL, 'netflix', 'BASIC', 'VOID', 1990, 1990, 'USD', 1, at(1), at(2), at(1442), 1, 0, id(13), 3),
  ('a', id(3), 'S3', 'iqiyi', 'BASIC', 'ISSUED', 2999, 2999, 'CNY', 30, at(1), NULL, NULL, 1, 0, NULL, 1),
  ('a', id(4), NULL, 'iqiyi', 'BASIC', 'VOID', 2999, 2999, 'CNY', 30, at(1), NULL, NULL, 1, 0, id(15), 3),
  ('a', id(5), NULL, 'tencent', 'BASIC', 'VOID', 2999, 2999, 'CNY', 30, at(1), at(2), at(43206), 2, 1, id(17), 5);
INSERT INTO card_serial (platform, external_serial, account_id, card_id)
VALUES ('iqiyi', 'S1', 'a', id(1)), ('iqiyi', 'S3', 'a', id(3));
INSERT INTO card_event (account_id, card_id, version, kind, state, activate_time, expire_time, generation,
                        renewals_used, recycling_id, request_id, event_time)
VALUES
  ('a', id(1), 1, 'ISSUED', 'ISSUED', NULL, NULL, 1, 0, NULL, id(101), at(1)),
  ('a', id(1), 2, 'ACTIVATED', 'ACTIVE', at(2), at(43202), 1, 0, NULL, id(106), at(2)),
  ('a', id(1), 3, 'RECYCLED', 'RECYCLED', at(2), at(43202), 1, 0, id(11), id(111), at(3)),
  ('a', id(1), 4, 'REACTIVATED', 'ACTIVE', at(2), at(43204), 2, 0, NULL, id(131), at(5)),
  ('a', id(1), 5, 'RECYCLED', 'RECYCLED', at(2), at(43204), 2, 0, id(12), id(112), at(6)),
  ('a', id(2), 1, 'ISSUED', 'ISSUED', NULL, NULL, 1, 0, NULL, id(102), at(1)),
  ('a', id(2), 2, 'ACTIVATED', 'ACTIVE', at(2), at(1442), 1, 0, NULL, id(107), at(2)),
  ('a', id(2), 3, 'RECYCLED', 'VOID', at(2), at(1442), 1, 0, id(13), id(113), at(1450)),
  ('a', id(3), 1, 'ISSUED', 'ISSUED', NULL, NULL, 1, 0, NULL, id(103), at(1)),
  ('a', id(4), 1, 'ISSUED', 'ISSUED', NULL, NULL, 1, 0, NULL, id(104), at(1)),
  ('a', id(4), 2, 'RECYCLED', 'RECYCLED', NULL, NULL, 1, 0, id(15), id(115), at(3)),
  ('a', id(4), 3, 'VOIDED', 'VOID', NULL, NULL, 1, 0, id(15), id(141), at(4)),
  ('a', id(5), 1, 'ISSUED', 'ISSUED', NULL, NULL, 1, 0, NULL, id(105), at(1)),
  ('a', id(5), 2, 'ACTIVATED', 'ACTIVE', at(2), at(43202), 1, 0, NULL, id(108), at(2)),
  ('a', id(5), 3, 'RECYCLED', 'RECYCLED', at(2), at(43202), 1, 0, id(16), id(116), at(3)),
  ('a', id(5), 4, 'REACTIVATED', 'ACTIVE', at(2), at(43206), 2, 1, NULL, id(132), at(6)),
  ('a', id(5), 5, 'RECYCLED', 'VOID', at(2), at(43206), 2, 1, id(17), id(117), at(7));

INSERT INTO recycling (account_id, recycling_id, request_id, card_id, generation, reason, priority, state, disposition,
                       fee_minor, prior_state, unused_us, unit, amount, basis_points, coupon_expire_time,
                       max_discount_minor, compensation_state, settle_after_time, settlement_held, platform,
                       policy_revision, decision, create_time, version)
SELECT 'a', id(number), id(100 + number), id(card), generation, reason, 'PERSON', state, disposition, fee, prior_state,
       unused * 60000000::bigint, unit, amount, CASE WHEN unit = 'COUPON' THEN 500 END,
       CASE WHEN unit = 'COUPON' THEN at(step + 129600) END, CASE WHEN unit = 'COUPON' THEN 99 END, compensation_state,
       CASE WHEN state <> 'REJECTED' THEN at(step) END, false, platform, 1,
       CASE WHEN state = 'REJECTED' THEN '{"risk_band": "HIGH", "model_version": "m1", "risk_score": 0.9}'
            ELSE '{"risk_band": "LOW", "model_version": "m1", "risk_score": 0.1}' END::json, at(step), 2
FROM (VALUES
  (11, 1, 1, 'VOLUNTARY', 'REVERSED', 'VOUCHER', 300, 'ACTIVE', 43199, 'COIN', 2698, 'CLAWED_BACK', 'iqiyi', 3),
  (12, 1, 2, 'VOLUNTARY', 'APPROVED', 'VOUCHER', 300, 'ACTIVE', 43198, 'COIN', 2698, 'SETTLED', 'iqiyi', 6),
  (13, 2, 1, 'EXPIRED', 'APPROVED', 'CANCEL', 0, 'EXPIRED', 0, 'COUPON', 1, 'SETTLED', 'netflix', 1450),
  (14, 3, 1, 'VOLUNTARY', 'REJECTED', NULL, 0, 'ISSUED', 43200, NULL, NULL, NULL, 'iqiyi', 8),
  (15, 4, 1, 'VOLUNTARY', 'APPROVED', 'VOUCHER', 300, 'ISSUED', 43200, 'COIN', 2699, 'BLOCKED', 'iqiyi', 3),
  (16, 5, 1, 'SYSTEM_ANOMALY', 'REVERSED', 'RESET_VALIDITY', 0, 'ACTIVE', 43199, 'GROWTH_POINT', 290, 'CLAWED_BACK',
   'tencent', 3),
  (17, 5, 2, 'SYSTEM_ANOMALY', 'APPROVED', 'CANCEL', 0, 'ACTIVE', 43199, NULL, NULL, NULL, 'tencent', 7)
) AS r (number, card, generation, reason, state, disposition, fee, prior_state, unused, unit, amount,
        compensation_state, platform, step);

INSERT INTO posting (account_id, request_id, ledger, platform, unit, kind, amount, recycling_id, create_time)
SELECT 'a', id(request), ledger, platform, unit, kind, CASE ledger WHEN 'WALLET' THEN amount ELSE -amount END,
       id(recycling), at(step)
FROM (VALUES
  (121, 'iqiyi', 'COIN', 'SETTLEMENT', 2698, 11, 4),
  (131, 'iqiyi', 'COIN', 'CLAWBACK', -2698, 11, 5),
  (122, 'iqiyi', 'COIN', 'SETTLEMENT', 2698, 12, 7),
  (123, 'netflix', 'COUPON', 'SETTLEMENT', 1, 13, 1451),
  (126, 'tencent', 'GROWTH_POINT', 'SETTLEMENT', 290, 16, 4),
  (132, 'tencent', 'GROWTH_POINT', 'CLAWBACK', -290, 16, 6)
) AS t (request, platform, unit, kind, amount, recycling, step)
CROSS JOIN unnest(ARRAY['WALLET', 'PLATFORM']) AS ledger;
INSERT INTO wallet_balance (account_id, platform, unit, amount)
VALUES ('a', 'iqiyi', 'COIN', 2698), ('a', 'netflix', 'COUPON', 1), ('a', 'tencent', 'GROWTH_POINT', 0);
INSERT INTO coupon (account_id, coupon_id, platform, basis_points, max_discount_minor, expire_time, create_time)
VALUES ('a', id(13), 'netflix', 500, 99, at(131050), at(1451));
INSERT INTO command (account_id, request_id, method, input_hash, response, receipt, create_time)
SELECT 'a', id(request), method, sha256(''), '',
       (jsonb_strip_nulls(jsonb_build_object('card', to_jsonb(card))) || more)::json, at(step)
FROM (VALUES
  (101, 'IssueCards', NULL, 1, '{}'), (102, 'IssueCards', NULL, 1, '{}'), (103, 'IssueCards', NULL, 1, '{}'),
  (104, 'IssueCards', NULL, 1, '{}'), (105, 'IssueCards', NULL, 1, '{}'),
  (106, 'ActivateCard', 1, 2, '{}'), (107, 'ActivateCard', 2, 2, '{}'), (108, 'ActivateCard', 5, 2, '{}'),
  (111, 'Recycle', 1, 3, '{}'), (112, 'Recycle', 1, 6, '{}'), (113, 'Recycle', 2, 1450, '{}'),
  (114, 'Recycle', 3, 8, '{}'), (115, 'Recycle', 4, 3, '{}'), (116, 'Recycle', 5, 3, '{}'),
  (117, 'Recycle', 5, 7, '{}'),
  (121, 'Compensate', 1, 4, '{}'), (122, 'Compensate', 1, 7, '{}'), (123, 'Compensate', 2, 1451, '{}'),
  (126, 'Compensate', 5, 4, '{}'),
  (131, 'Reactivate', 1, 5, '{"score": {"probability": 0.1, "medium_threshold": 0.5}}'),
  (132, 'Reactivate', 5, 6, '{"score": {"probability": 0.1, "medium_threshold": 0.5}}'),
  (136, 'Reactivate', 5, 5, '{"score": {"probability": 0.9, "high_threshold": 0.9}}'),
  (141, 'VoidCard', 4, 4, '{"input": ["4", "CHARGEBACK", ""],
     "recycling": {"recycling_id": "00000000-0000-7000-8000-000000000015", "compensation": {"state": "PENDING"}}}')
) AS c (request, method, number, step, added)
CROSS JOIN LATERAL (SELECT added::jsonb AS more) AS receipt
LEFT JOIN card ON card_id = id(number);
UPDATE command SET receipt = jsonb_set(receipt::jsonb, '{card,state}', '"RECYCLED"')::json WHERE request_id = id(141);
INSERT INTO risk_event (account_id, event_time, kind, card_id, amount_minor)
SELECT account_id, issue_time, 'ISSUE', card_id::text, paid_minor FROM card;
INSERT INTO risk_event (account_id, event_time, kind, card_id, device_hash, address_hash, profile_hash, amount_minor,
                        outcome, request_id)
SELECT 'a', at(step), 'RECYCLE', id(1)::text, decode(repeat('01', 16), 'hex'), decode(repeat('02', 16), 'hex'),
       decode(repeat('03', 16), 'hex'), 2999, 'APPROVED', id(CASE step WHEN 3 THEN 111 ELSE 112 END)
FROM unnest(ARRAY[3, 6]) AS step;
INSERT INTO outcome (account_id, recycling_id, kind, outcome_time, record_time, platform, policy_revision,
                     model_version, risk_score, state)
VALUES ('a', id(16), 'COMPLAINT', at(4), at(5), 'tencent', 1, 'm1', 0.1, 'APPROVED'),
       ('a', id(15), 'CHARGEBACK', at(4), at(1500), 'iqiyi', 1, 'm1', 0.1, 'APPROVED');
"""

# Account b has cards 6 to 14, all recycled or to be recycled at step 3 (40 above the card; the command 100 above that):
# 6 held, approved at step 5; 7 held, denied at 5; 8 held still; 9 taken, its reactivation held at 4 and denied at 6;
# 10 taken, its payment held, approved and paid; 11 the same, denied; 12 held until step 103, lapsed; 13 as 9, but
# approved; 14 held, and voided at 5. A review's id is 300 above its card's. Commands, above the card: 160 issue,
# 180 activate, 200 reactivate, 220 the end of a review, 240 compensate.
HISTORY += """
INSERT INTO account (account_id, version, create_time) VALUES ('b', 9, at(0));
INSERT INTO card (account_id, card_id, platform, tier, state, face_value_minor, paid_minor, currency, duration_days,
                  issue_time, activate_time, expire_time, generation, renewals_used, live_recycling_id, version,
                  held_since, hold_until)
SELECT 'b', id(number), platform, 'BASIC', state, 2999, 2999, 'CNY', 30, at(1), at(2), at(expire), generation, 0,
       id(live), version, at(held_since), at(hold_until)
FROM (VALUES
  (6, 'iqiyi', 'RECYCLED', 43202, 1, 46, 4, NULL, NULL), (7, 'iqiyi', 'ACTIVE', 43204, 1, NULL, 4, NULL, NULL),
  (8, 'iqiyi', 'ACTIVE', 43202, 1, NULL, 3, 3, 10083), (9, 'iqiyi', 'RECYCLED', 43202, 1, 49, 5, NULL, NULL),
  (10, 'tencent', 'RECYCLED', 43202, 1, 50, 3, NULL, NULL), (11, 'tencent', 'RECYCLED', 43202, 1, 51, 3, NULL, NULL),
  (12, 'iqiyi', 'ACTIVE', 43302, 1, NULL, 4, NULL, NULL), (13, 'iqiyi', 'ACTIVE', 43205, 2, NULL, 5, NULL, NULL),
  (14, 'iqiyi', 'VOID', 43202, 1, NULL, 4, NULL, NULL)
) AS c (number, platform, state, expire, generation, live, version, held_since, hold_until);
INSERT INTO card_event (account_id, card_id, version, kind, state, activate_time, expire_time, generation,
                        renewals_used, recycling_id, request_id, event_time, held_since, hold_until)
SELECT 'b', id(card), row_number() OVER (PARTITION BY card ORDER BY step), kind, state,
       CASE WHEN kind <> 'ISSUED' THEN at(2) END, CASE WHEN kind <> 'ISSUED' THEN at(expire) END, generation, 0,
       id(recycling), id(request), at(step), CASE WHEN kind = 'HELD' THEN at(step) END, at(hold_until)
FROM (
  SELECT card, 1 AS step, 'ISSUED' AS kind, 'ISSUED' AS state, 43202 AS expire, 1 AS generation,
         NULL::integer AS recycling, 160 + card AS request, NULL::integer AS hold_until
  FROM generate_series(6, 14) AS card
  UNION ALL
  SELECT card, 2, 'ACTIVATED', 'ACTIVE', 43202, 1, NULL, 180 + card, NULL FROM generate_series(6, 14) AS card
  UNION ALL
  VALUES
    (6, 3, 'HELD', 'ACTIVE', 43202, 1, 46, 146, 10083), (6, 5, 'RECYCLED', 'RECYCLED', 43202, 1, 46, 226, NULL),
    (7, 3, 'HELD', 'ACTIVE', 43202, 1, 47, 147, 10083), (7, 5, 'RELEASED', 'ACTIVE', 43204, 1, 47, 227, NULL),
    (8, 3, 'HELD', 'ACTIVE', 43202, 1, 48, 148, 10083),
    (9, 3, 'RECYCLED', 'RECYCLED', 43202, 1, 49, 149, NULL), (9, 4, 'HELD', 'RECYCLED', 43202, 1, 49, 209, 10084),
    (9, 6, 'RELEASED', 'RECYCLED', 43202, 1, 49, 229, NULL),
    (10, 3, 'RECYCLED', 'RECYCLED', 43202, 1, 50, 150, NULL), (11, 3, 'RECYCLED', 'RECYCLED', 43202, 1, 51, 151, NULL),
    (12, 3, 'HELD', 'ACTIVE', 43202, 1, 52, 152, 103), (12, 103, 'RELEASED', 'ACTIVE', 43302, 1, 52, 232, NULL),
    (13, 3, 'RECYCLED', 'RECYCLED', 43202, 1, 53, 153, NULL), (13, 4, 'HELD', 'RECYCLED', 43202, 1, 53, 213, 10084),
    (13, 6, 'REACTIVATED', 'ACTIVE', 43205, 2, NULL, 233, NULL),
    (14, 3, 'HELD', 'ACTIVE', 43202, 1, 54, 154, 10083), (14, 5, 'VOIDED', 'VOID', 43202, 1, NULL, 234, NULL)
) AS e;
INSERT INTO recycling (account_id, recycling_id, request_id, card_id, generation, reason, priority, state, disposition,
                       fee_minor, prior_state, unused_us, unit, amount, compensation_state, settle_after_time,
                       settlement_held, platform, policy_revision, decision, create_time, version, hold_until,
                       window_moved_us)
SELECT 'b', id(40 + card), id(140 + card), id(card), 1, reason, 'PERSON', state, disposition, fee, 'ACTIVE',
       43199 * 60000000::bigint, unit, amount, compensation_state, CASE WHEN unit IS NOT NULL THEN at(3) END, false,
       platform, 1, json_build_object('risk_band', band, 'reason_codes', ARRAY['RISK_' || band, code]), at(3), 2,
       at(hold_until), moved * 60000000::bigint
FROM (VALUES
  (6, 'VOLUNTARY', 'APPROVED', 'VOUCHER', 300, 'COIN', 2698, 'PENDING', 'iqiyi', 'MEDIUM', NULL, NULL, 0),
  (7, 'VOLUNTARY', 'REJECTED', NULL, 0, NULL, NULL, NULL, 'iqiyi', 'MEDIUM', 'REVIEW_DENIED', NULL, 0),
  (8, 'VOLUNTARY', 'IN_REVIEW', 'VOUCHER', 300, 'COIN', 2698, 'PENDING', 'iqiyi', 'MEDIUM', NULL, 10083, 0),
  (9, 'VOLUNTARY', 'APPROVED', 'VOUCHER', 300, 'COIN', 2698, 'PENDING', 'iqiyi', 'LOW', NULL, NULL, 2),
  (10, 'SYSTEM_ANOMALY', 'APPROVED', 'RESET_VALIDITY', 0, 'GROWTH_POINT', 290, 'SETTLED', 'tencent', 'HIGH', NULL, NULL,
   0),
  (11, 'SYSTEM_ANOMALY', 'APPROVED', 'RESET_VALIDITY', 0, 'GROWTH_POINT', 290, 'BLOCKED', 'tencent', 'HIGH', NULL, NULL,
   0),
  (12, 'VOLUNTARY', 'REJECTED', NULL, 0, NULL, NULL, NULL, 'iqiyi', 'MEDIUM', 'REVIEW_EXPIRED', NULL, 0),
  (13, 'VOLUNTARY', 'REVERSED', 'VOUCHER', 300, 'COIN', 2698, 'CANCELLED', 'iqiyi', 'LOW', NULL, NULL, 10080),
  (14, 'VOLUNTARY', 'REJECTED', NULL, 0, NULL, NULL, NULL, 'iqiyi', 'MEDIUM', 'CARD_VOIDED', NULL, 0)
) AS r (card, reason, state, disposition, fee, unit, amount, compensation_state, platform, band, code, hold_until,
        moved);
INSERT INTO review (account_id, review_id, request_id, card_id, recycling_id, kind, platform, state, create_time,
                    hold_until, reason_codes, policy_revision, model_version, terms, reviewer, note, resolve_time,
                    resolve_request_id, version)
SELECT 'b', id(300 + card), id(opened), id(card), id(40 + card), kind,
       CASE kind WHEN 'SETTLEMENT' THEN 'tencent' ELSE 'iqiyi' END, state, at(step), at(hold_until), '[]', 'x@1', '',
       CASE kind WHEN 'RECYCLE' THEN json_build_object('disposition', 'VOUCHER', 'fee_minor', 300, 'unit', 'COIN',
                                                       'amount', 2698, 'settle_after_time', at(3)) END,
       CASE WHEN state IN ('APPROVED', 'DENIED') THEN 'anna' END, '', at(resolved),
       CASE WHEN state <> 'OPEN' THEN id(220 + card) END, 2
FROM (VALUES
  (6, 146, 'RECYCLE', 'APPROVED', 3, 10083, 5), (7, 147, 'RECYCLE', 'DENIED', 3, 10083, 5),
  (8, 148, 'RECYCLE', 'OPEN', 3, 10083, NULL), (9, 209, 'REACTIVATE', 'DENIED', 4, 10084, 6),
  (10, 150, 'SETTLEMENT', 'APPROVED', 3, NULL, 5), (11, 151, 'SETTLEMENT', 'DENIED', 3, NULL, 5),
  (12, 152, 'RECYCLE', 'EXPIRED', 3, 103, 103), (13, 213, 'REACTIVATE', 'APPROVED', 4, 10084, 6),
  (14, 154, 'RECYCLE', 'CLOSED', 3, 10083, 5)
) AS v (card, opened, kind, state, step, hold_until, resolved);
INSERT INTO risk_label (account_id, recycling_id, request_id, label, source, label_time)
SELECT account_id, recycling_id, request_id, CASE state WHEN 'DENIED' THEN 1 ELSE 0 END, 'review', resolve_time
FROM review WHERE state IN ('APPROVED', 'DENIED');
INSERT INTO posting (account_id, request_id, ledger, platform, unit, kind, amount, recycling_id, create_time)
VALUES ('b', id(250), 'WALLET', 'tencent', 'GROWTH_POINT', 'SETTLEMENT', 290, id(50), at(6)),
       ('b', id(250), 'PLATFORM', 'tencent', 'GROWTH_POINT', 'SETTLEMENT', -290, id(50), at(6));
INSERT INTO wallet_balance (account_id, platform, unit, amount) VALUES ('b', 'tencent', 'GROWTH_POINT', 290);
INSERT INTO command (account_id, request_id, method, input_hash, response, receipt, create_time)
SELECT 'b', id(request), method, sha256(''), '', receipt::json, at(step)
FROM (
  SELECT 160 + card AS request, 'IssueCards' AS method, 1 AS step, '{}' AS receipt FROM generate_series(6, 14) AS card
  UNION ALL
  SELECT 180 + card, 'ActivateCard', 2, '{}' FROM generate_series(6, 14) AS card
  UNION ALL
  SELECT 140 + card, 'Recycle', 3, '{}' FROM generate_series(6, 14) AS card
  UNION ALL
  VALUES
    (209, 'Reactivate', 4, '{}'), (213, 'Reactivate', 4, '{}'), (250, 'Compensate', 6, '{}'),
    (226, 'ResolveReview', 5, '{}'), (227, 'ResolveReview', 5, '{}'), (229, 'ResolveReview', 6, '{}'),
    (230, 'ResolveReview', 5, '{}'), (231, 'ResolveReview', 5, '{}'), (232, 'LapseHold', 103, '{}'),
    (233, 'ResolveReview', 6, '{}'),
    (234, 'VoidCard', 5, '{"input": ["14", "CHARGEBACK", ""], "recycling": {"state": "IN_REVIEW",
       "recycling_id": "00000000-0000-7000-8000-000000000054", "compensation": {"state": "PENDING"}}}')
) AS c;
"""

# Account c: card 18 was recycled by the service itself when its policy said so, and its coupon was not used; 19 waited
# in vain, with a device bound to it; 20 has expired.
HISTORY += """
UPDATE backtest_clock SET shifted_time = at(500000);
INSERT INTO policy_revision (platform, revision, document, document_sha256, effective_time)
VALUES ('hulu', 1, '{
          "trigger": {"reasons": ["EXPIRED"], "card_states": ["EXPIRED"], "wait_after_expiry_days": 30,
                      "automatic": true},
          "fee_basis_points": 0,
          "compensation": {"kind": "DISCOUNT", "unit": "COUPON", "basis_points": 500, "valid_days": 90,
                           "amount_max": 1},
          "dispositions": [{"disposition": "CANCEL"}], "reactivation": null,
          "settle_after_days": 0}', sha256(''), at(0));
INSERT INTO account (account_id, version, create_time) VALUES ('c', 9, at(0));
INSERT INTO card (account_id, card_id, platform, tier, state, face_value_minor, paid_minor, currency, duration_days,
                  issue_time, activate_time, expire_time, generation, renewals_used, live_recycling_id, version,
                  expired_bound, bound_devices)
VALUES ('c', id(18), 'hulu', 'BASIC', 'VOID', 1990, 1990, 'CNY', 1, at(1), at(2), at(1442), 1, 0, id(58), 4, at(1442),
        '{}'),
       ('c', id(19), 'iqiyi', 'BASIC', 'VOID', 2999, 2999, 'CNY', 30, at(1), NULL, NULL, 1, 0, id(59), 4, NULL,
        ARRAY[sha256('')]),
       ('c', id(20), 'hulu', 'BASIC', 'ACTIVE', 1990, 1990, 'CNY', 1, at(1), at(2), at(1442), 1, 0, NULL, 3, at(1442),
        '{}');
INSERT INTO card_event (account_id, card_id, version, kind, state, activate_time, expire_time, generation,
                        renewals_used, recycling_id, request_id, event_time, device_hash)
VALUES
  ('c', id(18), 1, 'ISSUED', 'ISSUED', NULL, NULL, 1, 0, NULL, id(178), at(1), NULL),
  ('c', id(18), 2, 'ACTIVATED', 'ACTIVE', at(2), at(1442), 1, 0, NULL, id(198), at(2), NULL),
  ('c', id(18), 3, 'EXPIRED', 'EXPIRED', at(2), at(1442), 1, 0, NULL, own_request_id('ExpireCard', id(18)::text, '1'),
   at(1442), NULL),
  ('c', id(18), 4, 'RECYCLED', 'VOID', at(2), at(1442), 1, 0, id(58), own_request_id('Recycle', id(18)::text, '1'),
   at(44700), NULL),
  ('c', id(19), 1, 'ISSUED', 'ISSUED', NULL, NULL, 1, 0, NULL, id(179), at(1), NULL),
  ('c', id(19), 2, 'BOUND', 'ISSUED', NULL, NULL, 1, 0, NULL, id(199), at(2), sha256('')),
  ('c', id(19), 3, 'RECYCLED', 'RECYCLED', NULL, NULL, 1, 0, id(59), id(159), at(3), NULL),
  ('c', id(19), 4, 'CLOSED', 'VOID', NULL, NULL, 1, 0, id(59), own_request_id('CloseWindow', id(19)::text, '1'),
   at(259203), NULL),
  ('c', id(20), 1, 'ISSUED', 'ISSUED', NULL, NULL, 1, 0, NULL, id(180), at(1), NULL),
  ('c', id(20), 2, 'ACTIVATED', 'ACTIVE', at(2), at(1442), 1, 0, NULL, id(200), at(2), NULL),
  ('c', id(20), 3, 'EXPIRED', 'EXPIRED', at(2), at(1442), 1, 0, NULL, own_request_id('ExpireCard', id(20)::text, '1'),
   at(1442), NULL);
INSERT INTO recycling (account_id, recycling_id, request_id, card_id, generation, reason, priority, state, disposition,
                       fee_minor, prior_state, unused_us, unit, amount, basis_points, coupon_expire_time,
                       max_discount_minor, compensation_state, settle_after_time, settlement_held, platform,
                       policy_revision, decision, create_time, version)
VALUES
  ('c', id(58), own_request_id('Recycle', id(18)::text, '1'), id(18), 1, 'EXPIRED', 'BULK', 'APPROVED', 'CANCEL', 0,
   'EXPIRED', 0, 'COUPON', 1, 500, at(44700 + 129600), 99, 'SETTLED', at(44700), false, 'hulu', 1,
   '{"risk_band": "LOW", "model_version": "m1", "risk_score": 0.1}', at(44700), 2),
  ('c', id(59), id(159), id(19), 1, 'VOLUNTARY', 'PERSON', 'APPROVED', 'VOUCHER', 300, 'ISSUED',
   43200 * 60000000::bigint, 'COIN', 2699, NULL, NULL, NULL, 'PENDING', at(3), false, 'iqiyi', 1,
   '{"risk_band": "LOW", "model_version": "m1", "risk_score": 0.1}', at(3), 1);
INSERT INTO coupon (account_id, coupon_id, platform, basis_points, max_discount_minor, expire_time, create_time)
VALUES ('c', id(58), 'hulu', 500, 99, at(44700 + 129600), at(44701));
DELETE FROM coupon_open WHERE account_id = 'c';
INSERT INTO posting (account_id, request_id, ledger, platform, unit, kind, amount, recycling_id, create_time)
SELECT 'c', request_id, ledger, 'hulu', 'COUPON', kind, CASE ledger WHEN 'WALLET' THEN amount ELSE -amount END, id(58),
       at(step)
FROM (VALUES (id(258), 'SETTLEMENT', 1, 44701),
             (own_request_id('ExpireCoupon', id(58)::text), 'EXPIRY', -1, 44700 + 129600)) AS t
       (request_id, kind, amount, step)
CROSS JOIN unnest(ARRAY['WALLET', 'PLATFORM']) AS ledger;
INSERT INTO wallet_balance (account_id, platform, unit, amount) VALUES ('c', 'hulu', 'COUPON', 0);
INSERT INTO command (account_id, request_id, method, input_hash, response, receipt, create_time)
SELECT 'c', request_id, method, sha256(''), '',
       (jsonb_strip_nulls(jsonb_build_object('card', to_jsonb(card))) || more)::json, at(step)
FROM (VALUES
  (id(178), 'IssueCards', 18, 1, '{}'), (id(198), 'ActivateCard', 18, 2, '{}'),
  (own_request_id('ExpireCard', id(18)::text, '1'), 'ExpireCard', 18, 1442, '{}'),
  (own_request_id('Recycle', id(18)::text, '1'), 'Recycle', 18, 44700, '{}'),
  (id(258), 'Compensate', 18, 44701, '{}'),
  (own_request_id('ExpireCoupon', id(58)::text), 'ExpireCoupon', 18, 44700 + 129600,
   '{"recycling": {"recycling_id": "00000000-0000-7000-8000-000000000058"}}'),
  (id(179), 'IssueCards', 19, 1, '{}'), (id(199), 'BindDevice', 19, 2, '{}'), (id(159), 'Recycle', 19, 3, '{}'),
  (own_request_id('CloseWindow', id(19)::text, '1'), 'CloseWindow', 19, 259203, '{}'),
  (id(180), 'IssueCards', 20, 1, '{}'), (id(200), 'ActivateCard', 20, 2, '{}'),
  (own_request_id('ExpireCard', id(20)::text, '1'), 'ExpireCard', 20, 1442, '{}')
) AS c (request_id, method, number, step, added)
CROSS JOIN LATERAL (SELECT added::jsonb AS more) AS receipt
JOIN card ON card_id = id(number);
INSERT INTO risk_event (account_id, event_time, kind, card_id, amount_minor)
SELECT account_id, issue_time, 'ISSUE', card_id::text, paid_minor FROM card WHERE account_id = 'c';
"""

# What is done to the history above, and the names of the rules that this breaks. Where the schema itself forbids the
# deed, the constraint goes first.
# Account a uses its coins: 100 for a coupon (90), 55 for points elsewhere; and is granted 20.
HISTORY += """
UPDATE policy_revision SET document = document || '{
  "offers": [{"offer_id": "a-coupon", "partner": "shop", "title": "A coupon", "unit": "COIN", "price": 100,
              "account_max": 1,
              "benefit": {"kind": "COUPON", "value_minor": 95, "basis_points": 1000, "valid_days": 90}}],
  "exchange": [{"unit": "COIN", "to_platform": "tencent", "to_unit": "GROWTH_POINT", "give": 1, "get": 10,
                "spread_basis_points": 300, "amount_max": 60}],
  "goodwill": {"unit": "COIN", "amount_max": 20, "account_max": 30}}' WHERE platform = 'iqiyi';
INSERT INTO command (account_id, request_id, method, input_hash, response, receipt, create_time)
VALUES ('a', id(191), 'Redeem', sha256(''), '', '{"input": ["iqiyi", "a-coupon"]}', at(8)),
       ('a', id(192), 'Exchange', sha256(''), '',
        '{"input": ["iqiyi", "COIN", "55", "tencent", "GROWTH_POINT", "0"]}', at(9)),
       ('a', id(193), 'Compensate', sha256(''), '', '{}', at(10));
INSERT INTO redemption (account_id, redemption_id, request_id, platform, policy_revision, offer_id, partner, title,
                        unit, price, benefit, value_minor, basis_points, valid_days, expire_time, create_time)
VALUES ('a', id(90), id(191), 'iqiyi', 1, 'a-coupon', 'shop', 'A coupon', 'COIN', 100, 'COUPON', 95, 1000, 90,
        at(129608), at(8));
INSERT INTO coupon (account_id, coupon_id, platform, basis_points, max_discount_minor, expire_time, create_time)
VALUES ('a', id(90), 'iqiyi', 1000, 95, at(129608), at(8));
INSERT INTO goodwill (account_id, request_id, recycling_id, platform, policy_revision, unit, amount, note, create_time)
VALUES ('a', id(193), id(12), 'iqiyi', 1, 'COIN', 20, 'sorry', at(10));
INSERT INTO posting (account_id, request_id, ledger, platform, unit, kind, amount, redemption_id, create_time)
SELECT 'a', id(request), ledger, platform, unit, kind, CASE ledger WHEN 'WALLET' THEN amount ELSE -amount END,
       id(redemption), at(step)
FROM (VALUES
  (191, 'iqiyi', 'COIN', 'REDEMPTION', -100, 90, 8), (191, 'iqiyi', 'COUPON', 'REDEMPTION', 1, 90, 8),
  (192, 'iqiyi', 'COIN', 'EXCHANGE', -55, NULL, 9), (192, 'tencent', 'GROWTH_POINT', 'EXCHANGE', 533, NULL, 9),
  (193, 'iqiyi', 'COIN', 'GOODWILL', 20, NULL, 10)
) AS t (request, platform, unit, kind, amount, redemption, step)
CROSS JOIN unnest(ARRAY['WALLET', 'PLATFORM']) AS ledger;
UPDATE wallet_balance SET amount = amount - 135 WHERE (account_id, platform, unit) = ('a', 'iqiyi', 'COIN');
INSERT INTO wallet_balance AS w (account_id, platform, unit, amount)
VALUES ('a', 'iqiyi', 'COUPON', 1), ('a', 'tencent', 'GROWTH_POINT', 533)
ON CONFLICT (account_id, platform, unit) DO UPDATE SET amount = w.amount + excluded.amount;
"""

VIOLATIONS = {
    "an offer taken at another price": ("UPDATE redemption SET price = 99", {"redemptions_match_offers"}),
    "an offer that was not in force": (
        "UPDATE redemption SET offer_id = 'another'",
        {"redemptions_match_offers"},
    ),
    "an offer taken too often": (
        """UPDATE policy_revision SET document = jsonb_set(document, '{offers,0,account_max}', '0')
           WHERE platform = 'iqiyi'""",
        {"redemptions_match_offers"},
    ),
    "a redemption that was not paid for": (
        "DELETE FROM posting WHERE request_id = id(191)",
        {"redemptions_match_offers", "wallets_match_postings", "commands_have_effects"},
    ),
    "a partner that was not told": (
        "DELETE FROM redemption",
        {"redemptions_match_offers", "coupons_match_settlements"},
    ),
    "a redeemed coupon that is worth more": (
        "UPDATE coupon SET max_discount_minor = 96 WHERE coupon_id = id(90)",
        {"coupons_match_settlements"},
    ),
    "an exchange at another rate": (
        "UPDATE posting SET amount = sign(amount) * 534 WHERE request_id = id(192) AND unit = 'GROWTH_POINT'",
        {"exchanges_match_rates", "wallets_match_postings"},
    ),
    "an exchange beyond its limit": (
        """UPDATE policy_revision SET document = jsonb_set(document, '{exchange,0,amount_max}', '54')
           WHERE platform = 'iqiyi'""",
        {"exchanges_match_rates"},
    ),
    "goodwill beyond the cap of a grant": (
        """UPDATE policy_revision SET document = jsonb_set(document, '{goodwill,amount_max}', '19')
           WHERE platform = 'iqiyi'""",
        {"goodwill_within_caps"},
    ),
    "goodwill beyond the cap of an account": (
        """UPDATE policy_revision SET document = jsonb_set(document, '{goodwill,account_max}', '19')
           WHERE platform = 'iqiyi'""",
        {"goodwill_within_caps"},
    ),
    "goodwill without a note": ("DELETE FROM goodwill", {"goodwill_within_caps"}),
    "half of a transfer": (
        "DELETE FROM posting WHERE request_id = id(122) AND ledger = 'PLATFORM'",
        {"transfers_balance", "units_balance", "compensations_match_postings"},
    ),
    "a transfer between two requests": (
        "UPDATE posting SET request_id = id(123) WHERE request_id = id(122) AND ledger = 'PLATFORM'",
        {"transfers_balance", "postings_have_commands"},
    ),
    "a balance without postings": (
        "UPDATE wallet_balance SET amount = amount + 1 WHERE unit = 'COIN'",
        {"wallets_match_postings"},
    ),
    "a wallet that was lost": ("DELETE FROM wallet_balance WHERE unit = 'COIN'", {"wallets_match_postings"}),
    "a coupon that was lost": ("DELETE FROM coupon", {"coupons_match_settlements", "coupons_expire_in_time"}),
    "a coupon of other terms": ("UPDATE coupon SET max_discount_minor = 100", {"coupons_match_settlements"}),
    "a coupon that expired early": (
        "UPDATE coupon SET expire_time = at(300000) WHERE coupon_id = id(58)",
        {"coupons_expire_in_time", "coupons_match_settlements"},
    ),
    "a coupon that is open for ever": (
        """INSERT INTO coupon_open SELECT account_id, coupon_id, platform, expire_time, create_time FROM coupon
           WHERE coupon_id = id(58)""",
        {"coupons_expire_in_time"},
    ),
    "a coupon that will never expire": (
        "DELETE FROM coupon_open WHERE coupon_id = id(13)",
        {"coupons_expire_in_time"},
    ),
    "a device that no event bound": (
        "UPDATE card SET bound_devices = bound_devices || sha256('x') WHERE card_id = id(19)",
        {"cards_match_events"},
    ),
    "an expiry before its time": (
        """UPDATE card_event SET event_time = at(1441) WHERE card_id = id(18) AND version = 3;
           UPDATE command SET create_time = at(1441)
           WHERE request_id = own_request_id('ExpireCard', id(18)::text, '1')""",
        {"transitions_are_legal"},
    ),
    "an expiry that the row denies": (
        "UPDATE card SET expired_bound = NULL WHERE card_id = id(20)",
        {"expiries_match_events"},
    ),
    "a window that closed early": (
        """UPDATE card_event SET event_time = at(259202) WHERE card_id = id(19) AND version = 4;
           UPDATE command SET create_time = at(259202) WHERE method = 'CloseWindow'""",
        {"windows_close_in_time"},
    ),
    "a card that did not wait in vain": (
        """UPDATE card_event SET state = 'ISSUED' WHERE card_id = id(19) AND version = 4;
           UPDATE card SET state = 'ISSUED' WHERE card_id = id(19)""",
        {"transitions_are_legal", "cards_match_live_recycling"},
    ),
    "a recycle by the service itself before its time": (
        """UPDATE policy_revision SET document = jsonb_set(document, '{trigger,wait_after_expiry_days}', '31')
           WHERE platform = 'hulu'""",
        {"own_recycles_wait"},
    ),
    "an id of the service's own for something else": (
        """UPDATE command SET request_id = own_request_id('ExpireCard', 'x') WHERE request_id = id(180);
           UPDATE card_event SET request_id = own_request_id('ExpireCard', 'x') WHERE request_id = id(180)""",
        {"own_requests_are_derived"},
    ),
    "an id of the service's own for the end of another hold": (
        """UPDATE command SET request_id = own_request_id('LapseHold', 'x') WHERE request_id = id(232);
           UPDATE card_event SET request_id = own_request_id('LapseHold', 'x') WHERE request_id = id(232);
           UPDATE review SET resolve_request_id = own_request_id('LapseHold', 'x')
           WHERE resolve_request_id = id(232)""",
        {"own_requests_are_derived"},
    ),
    "a generation recycled twice": (
        """DROP INDEX recycling_live;
           UPDATE recycling SET generation = 2, state = 'APPROVED', compensation_state = 'SETTLED'
           WHERE recycling_id = id(11);
           DELETE FROM posting WHERE request_id = id(131);
           UPDATE wallet_balance SET amount = amount + 2698 WHERE unit = 'COIN'""",
        {
            "one_live_recycling",
            "cards_match_live_recycling",
            "reversals_begin_generations",
            "cards_never_gain",
            "unique_keys_stand",
            "recyclings_match_events",
        },
    ),
    "a taken card that is in use": (
        """UPDATE card SET state = 'ACTIVE', live_recycling_id = NULL WHERE card_id = id(1);
           UPDATE card_event SET state = 'ACTIVE', recycling_id = NULL WHERE card_id = id(1) AND version = 5""",
        {"cards_match_live_recycling", "transitions_are_legal", "recyclings_match_events"},
    ),
    "a cancelled card that waits": (
        """UPDATE card SET state = 'RECYCLED' WHERE card_id = id(2);
           UPDATE card_event SET state = 'RECYCLED' WHERE card_id = id(2) AND version = 3""",
        {"cards_match_live_recycling"},
    ),
    "a generation that nothing undid": (
        """UPDATE recycling SET state = 'REJECTED', disposition = NULL, unit = NULL, amount = NULL,
                                compensation_state = NULL WHERE recycling_id = id(11);
           DELETE FROM posting WHERE recycling_id = id(11)""",
        {"reversals_begin_generations", "commands_have_effects"},
    ),
    "two cards of one serial": (
        "UPDATE card SET external_serial = 'S1' WHERE card_id = id(3)",
        {"serials_once", "cards_match_receipts"},
    ),
    "an unregistered serial": ("DELETE FROM card_serial WHERE external_serial = 'S3'", {"serials_once"}),
    "a card changed without event": (
        "UPDATE card SET renewals_used = 1 WHERE card_id = id(3)",
        {"cards_match_events"},
    ),
    "a card's event lost": (
        "DELETE FROM card_event WHERE card_id = id(1) AND version = 4",
        {"cards_match_events", "transitions_are_legal", "commands_have_effects", "validity_follows_events"},
    ),
    "a card without events": (
        "DELETE FROM card_event WHERE card_id = id(3)",
        {"cards_match_events", "commands_have_effects"},
    ),
    "a recycled card activated": (
        "UPDATE card_event SET kind = 'ACTIVATED' WHERE card_id = id(1) AND version = 4",
        {"transitions_are_legal", "commands_have_effects", "events_have_commands", "validity_follows_events"},
    ),
    "a validity prolonged by hand": (
        """UPDATE card SET expire_time = expire_time + interval '100 days' WHERE card_id = id(2);
           UPDATE card_event SET expire_time = expire_time + interval '100 days'
           WHERE card_id = id(2) AND version = 3""",
        {"validity_follows_events", "recyclings_match_events"},
    ),
    "an activation for too long": (
        """UPDATE card SET expire_time = expire_time + interval '100 days' WHERE card_id = id(2);
           UPDATE card_event SET expire_time = expire_time + interval '100 days'
           WHERE card_id = id(2) AND version > 1""",
        {"validity_follows_events", "recyclings_match_events"},
    ),
    "a reactivation that gave more than was unused": (
        """UPDATE card SET expire_time = expire_time + interval '1 minute' WHERE card_id = id(1);
           UPDATE card_event SET expire_time = expire_time + interval '1 minute' WHERE card_id = id(1) AND version > 3;
           UPDATE recycling SET unused_us = unused_us + 60000000 WHERE recycling_id = id(12)""",
        {"validity_follows_events"},
    ),
    "a renewal that was not counted": (
        """UPDATE card SET renewals_used = 0 WHERE card_id = id(5);
           UPDATE card_event SET renewals_used = 0 WHERE card_id = id(5)""",
        {"validity_follows_events", "terms_match_policy"},
    ),
    "more taken as unused than there was": (
        "UPDATE recycling SET unused_us = unused_us + 60000000 WHERE recycling_id = id(16)",
        {"recyclings_match_events", "terms_match_policy"},
    ),
    "a price changed after the recycling": (
        "UPDATE card SET face_value_minor = 29990, paid_minor = 29990 WHERE card_id = id(1)",
        {"cards_match_receipts", "terms_match_policy"},
    ),
    "a price changed before any use": (
        """UPDATE card SET face_value_minor = 29990, paid_minor = 29990 WHERE card_id = id(3);
           UPDATE command SET receipt = '{}' WHERE request_id = id(114)""",
        {"cards_match_receipts"},
    ),
    "a duration changed": (
        "UPDATE card SET duration_days = 130 WHERE card_id = id(5)",
        {"cards_match_receipts", "validity_follows_events"},
    ),
    "a settlement undone without trace": (
        """DELETE FROM posting WHERE recycling_id = id(13);
           DELETE FROM coupon WHERE coupon_id = id(13);
           DELETE FROM coupon_open WHERE coupon_id = id(13);
           UPDATE wallet_balance SET amount = amount - 1 WHERE platform = 'netflix' AND unit = 'COUPON';
           UPDATE recycling SET compensation_state = 'PENDING' WHERE recycling_id = id(13)""",
        {"commands_have_effects"},
    ),
    "a recycle undone without trace": (
        """DELETE FROM card_event WHERE card_id = id(5) AND version = 5;
           UPDATE card SET state = 'ACTIVE', live_recycling_id = NULL, version = 4 WHERE card_id = id(5);
           DELETE FROM recycling WHERE recycling_id = id(17)""",
        {"commands_have_effects"},
    ),
    "a refused recycle forgotten": ("DELETE FROM recycling WHERE recycling_id = id(14)", {"commands_have_effects"}),
    "an issue undone without trace": (
        """DELETE FROM recycling WHERE card_id = id(3);
           DELETE FROM command WHERE request_id = id(114);
           DELETE FROM card_event WHERE card_id = id(3);
           DELETE FROM card WHERE card_id = id(3);
           DELETE FROM card_serial WHERE card_id = id(3)""",
        {"commands_have_effects"},
    ),
    "an activation without effect": (
        """INSERT INTO command
           SELECT account_id, id(109), 'ActivateCard', input_hash, response, receipt, create_time
           FROM command WHERE request_id = id(114)""",
        {"commands_have_effects"},
    ),
    "a void undone without trace": (
        """UPDATE card SET state = 'RECYCLED', version = 2 WHERE card_id = id(4);
           DELETE FROM card_event WHERE card_id = id(4) AND version = 3;
           UPDATE recycling SET compensation_state = 'PENDING' WHERE recycling_id = id(15)""",
        {"commands_have_effects", "blocked_when_paid_back"},
    ),
    "a reactivation without effect that risk allowed": (
        """UPDATE command SET receipt = '{"score": {"probability": 0.4, "high_threshold": 0.5}}'
           WHERE request_id = id(136)""",
        {"commands_have_effects"},
    ),
    "a reactivation without effect that nothing judged": (
        "UPDATE command SET receipt = '{\"score\": null}' WHERE request_id = id(136)",
        {"commands_have_effects"},
    ),
    "a reactivation without effect that only an ALLOW entry speaks of": (
        """UPDATE command SET receipt = '{"score": null, "verdict": {"reason_codes": ["ALLOW_LISTED_DEVICE"]}}'
           WHERE request_id = id(136)""",
        {"commands_have_effects"},
    ),
    "a command that names another method": (
        "UPDATE command SET method = 'VoidCard' WHERE request_id = id(117)",
        {"commands_have_effects", "recyclings_have_commands", "events_have_commands"},
    ),
    "a refusal that names another method": (
        "UPDATE command SET method = 'VoidCard' WHERE request_id = id(114)",
        {"commands_have_effects", "recyclings_have_commands"},
    ),
    "a recycling of another command": (
        "UPDATE recycling SET request_id = id(122) WHERE recycling_id = id(12)",
        {"commands_have_effects", "recyclings_have_commands", "recyclings_match_events", "terms_match_policy"},
    ),
    "an event of no command": (
        "UPDATE card_event SET request_id = id(999) WHERE request_id = id(107)",
        {"commands_have_effects", "events_have_commands"},
    ),
    "an event of an unaccountable moment": (
        """UPDATE card_event SET event_time = at(1400) WHERE request_id = id(107);
           UPDATE card_event SET activate_time = at(1400), expire_time = at(2840) WHERE card_id = id(2) AND version > 1;
           UPDATE card SET activate_time = at(1400), expire_time = at(2840) WHERE card_id = id(2)""",
        {"events_have_commands", "recyclings_match_events"},
    ),
    "a transfer of another command": (
        "UPDATE posting SET request_id = id(111) WHERE request_id = id(131)",
        {"postings_have_commands", "terms_match_policy"},
    ),
    "points a hundredfold": (
        """UPDATE recycling SET amount = 29000 WHERE recycling_id = id(16);
           UPDATE posting SET amount = sign(amount) * 29000 WHERE recycling_id = id(16)""",
        {"terms_match_policy"},
    ),
    "coins as many as were paid, without a fee": (
        """UPDATE recycling SET amount = 2998, fee_minor = 0 WHERE recycling_id = id(11);
           UPDATE posting SET amount = sign(amount) * 2998 WHERE recycling_id = id(11)""",
        {"terms_match_policy"},
    ),
    "points for a renewed card": (
        """UPDATE recycling SET unit = 'GROWTH_POINT', amount = 290, compensation_state = 'PENDING'
           WHERE recycling_id = id(17)""",
        {"terms_match_policy"},
    ),
    "a coupon that lasts longer": (
        """UPDATE recycling SET coupon_expire_time = at(200000) WHERE recycling_id = id(13);
           UPDATE coupon SET expire_time = at(200000) WHERE coupon_id = id(13);
           UPDATE coupon_open SET expire_time = at(200000) WHERE coupon_id = id(13)""",
        {"terms_match_policy"},
    ),
    "a compensation that was forgotten": (
        "UPDATE recycling SET unit = NULL, amount = NULL, compensation_state = NULL WHERE recycling_id = id(15)",
        {"terms_match_policy", "blocked_when_paid_back"},
    ),
    "a disposition that was worth less": (
        """UPDATE recycling SET decision = (decision::jsonb || '{"alternatives": [
             {"disposition": "VOUCHER", "revenue": 100, "probability": 0.5, "cost": 10, "y": 40, "allowed": true},
             {"disposition": "CANCEL", "revenue": 50, "probability": 1, "cost": 9, "y": 41, "allowed": true}]}')::json
           WHERE recycling_id = id(12)""",
        {"dispositions_are_best"},
    ),
    "a disposition that was not allowed": (
        """UPDATE recycling SET decision = (decision::jsonb || '{"alternatives": [
             {"disposition": "VOUCHER", "revenue": 100, "probability": 0.5, "cost": 10, "y": 40, "allowed": false}
           ]}')::json
           WHERE recycling_id = id(12)""",
        {"dispositions_are_best"},
    ),
    "a cost that is not the sum of its parts": (
        """UPDATE recycling SET decision = (decision::jsonb || '{"alternatives": [
             {"disposition": "VOUCHER", "revenue": 100, "probability": 0.5, "cost": 10, "y": 40, "allowed": true,
              "recycling_cost": 5, "opportunity_cost": 4, "user_damage": 2}]}')::json
           WHERE recycling_id = id(12)""",
        {"dispositions_are_best"},
    ),
    "an amount above the policy's": (
        """UPDATE policy_revision SET document = jsonb_set(document, '{compensation,amount_max}', '2698')
           WHERE platform = 'iqiyi'""",
        {"terms_match_policy"},
    ),
    "a settlement that was held": (
        "UPDATE recycling SET settlement_held = true WHERE recycling_id = id(12)",
        {"settlements_were_due"},
    ),
    "a suspicious settlement": (
        """UPDATE recycling SET decision = '{"risk_band": "MEDIUM"}' WHERE recycling_id = id(13)""",
        {"settlements_were_due"},
    ),
    "a suspicious settlement that no ALLOW list let through": (
        """UPDATE recycling SET decision = '{"risk_band": "HIGH", "list_hits": [{"list": "WATCH"}]}'
           WHERE recycling_id = id(13)""",
        {"settlements_were_due"},
    ),
    "a recycle explored under a policy that explores nothing": (
        """UPDATE recycling SET decision = '{"risk_band": "HIGH", "explored": true}' WHERE recycling_id = id(13)""",
        {"terms_match_policy"},
    ),
    "a settlement before its time": (
        """UPDATE recycling SET settle_after_time = at(1452) WHERE recycling_id = id(13);
           UPDATE policy_revision SET document = document || '{"settle_after_days": 1}' WHERE platform = 'netflix'""",
        {"settlements_were_due", "terms_match_policy"},
    ),
    "a compensation blocked without a void": (
        """DELETE FROM posting WHERE recycling_id = id(12);
           DELETE FROM command WHERE request_id = id(122);
           UPDATE wallet_balance SET amount = 0 WHERE unit = 'COIN';
           UPDATE recycling SET compensation_state = 'BLOCKED' WHERE recycling_id = id(12)""",
        {"blocked_when_paid_back", "wallets_match_postings"},
    ),
    "a block lifted": (
        "UPDATE recycling SET compensation_state = 'PENDING' WHERE recycling_id = id(15)",
        {"blocked_when_paid_back"},
    ),
    "an index lost that allows one live recycling": ("DROP INDEX recycling_live", {"unique_keys_stand"}),
    "an index lost that allows one settlement": ("DROP INDEX posting_once", {"unique_keys_stand"}),
    "an index that lets through": (
        """DROP INDEX recycling_live;
           CREATE UNIQUE INDEX recycling_live ON recycling (account_id, card_id, generation)
             WHERE state IN ('IN_REVIEW')""",
        {"unique_keys_stand"},
    ),
    "an index that is not unique": (
        "DROP INDEX posting_once; CREATE INDEX posting_once ON posting (account_id, recycling_id, kind, ledger)",
        {"unique_keys_stand"},
    ),
    "a key lost": ("ALTER TABLE command DROP CONSTRAINT command_pkey", {"unique_keys_stand"}),
    "a recycling without command": ("DELETE FROM command WHERE request_id = id(114)", {"recyclings_have_commands"}),
    "two recyclings of one command": (
        "UPDATE recycling SET request_id = id(113) WHERE recycling_id = id(14)",
        {"recyclings_have_commands", "commands_have_effects"},
    ),
    "a transfer without command": ("DELETE FROM command WHERE request_id = id(122)", {"postings_have_commands"}),
    "a fee above the price": (
        "UPDATE recycling SET fee_minor = 3000 WHERE recycling_id = id(12)",
        {"amounts_in_range", "terms_match_policy"},
    ),
    "a wallet below zero": (
        """ALTER TABLE wallet_balance DROP CONSTRAINT wallet_balance_amount_check;
           UPDATE wallet_balance SET amount = -1 WHERE unit = 'COIN'""",
        {"amounts_in_range", "wallets_match_postings"},
    ),
    "an owed amount of zero": (
        """ALTER TABLE recycling DROP CONSTRAINT recycling_amount_check;
           UPDATE recycling SET amount = 0 WHERE recycling_id = id(12)""",
        {"amounts_in_range", "compensations_match_postings", "terms_match_policy"},
    ),
    "a payout above the price": (
        """UPDATE recycling SET max_discount_minor = 1991 WHERE recycling_id = id(13);
           UPDATE coupon SET max_discount_minor = 1991 WHERE coupon_id = id(13)""",
        {"cards_never_gain", "terms_match_policy"},
    ),
    "points that two exchanges make worth more than the price": (
        """UPDATE policy_revision SET document = document || '{"exchange": [
             {"unit": "GROWTH_POINT", "to_platform": "iqiyi", "to_unit": "GROWTH_POINT", "give": 10, "get": 110}]}'
           WHERE platform = 'tencent';
           UPDATE policy_revision SET document = jsonb_insert(document, '{exchange,0}',
             '{"unit": "GROWTH_POINT", "to_platform": "iqiyi", "to_unit": "COIN", "give": 1, "get": 1,
               "spread_basis_points": 400}')
           WHERE platform = 'iqiyi'""",
        {"cards_never_gain"},
    ),
    "points that an offer makes worth more than the price": (
        """UPDATE policy_revision SET document = jsonb_set(document, '{offers}',
             '[{"unit": "GROWTH_POINT", "price": 10, "benefit": {"value_minor": 110}}]')
           WHERE platform = 'tencent'""",
        {"cards_never_gain"},
    ),
    "nothing, where points are worth more only by a later revision": (
        """INSERT INTO policy_revision (platform, revision, document, document_sha256, effective_time)
           SELECT platform, 2, jsonb_set(document, '{offers}',
             '[{"unit": "GROWTH_POINT", "price": 10, "benefit": {"value_minor": 110}}]'), document_sha256, at(499999)
           FROM policy_revision WHERE platform = 'tencent'""",
        set(),
    ),
    "a clawback of less": (
        """UPDATE posting SET amount = sign(amount) * 2697 WHERE request_id = id(131);
           UPDATE wallet_balance SET amount = amount + 1 WHERE unit = 'COIN'""",
        {"compensations_match_postings"},
    ),
    "a settlement that was not posted": (
        "UPDATE recycling SET compensation_state = 'PENDING' WHERE recycling_id = id(12)",
        {"compensations_match_postings"},
    ),
    "a posting in another unit": (
        """UPDATE posting SET unit = 'GROWTH_POINT' WHERE unit = 'COIN';
           UPDATE wallet_balance SET unit = 'GROWTH_POINT' WHERE unit = 'COIN'""",
        {
            "compensations_match_postings",
            "goodwill_within_caps",
            "exchanges_match_rates",
            "redemptions_match_offers",
        },
    ),
    "a reversal that kept its coins": (
        """UPDATE recycling SET compensation_state = 'SETTLED' WHERE recycling_id = id(11);
           DELETE FROM posting WHERE request_id = id(131);
           UPDATE wallet_balance SET amount = amount + 2698 WHERE unit = 'COIN'""",
        {"reversals_take_back", "cards_never_gain"},
    ),
    "a hold that nobody reviews": ("DELETE FROM review WHERE review_id = id(308)", {"holds_match_cards"}),
    "a hold prolonged by hand": (
        "UPDATE review SET hold_until = at(20000) WHERE review_id = id(308)",
        {"holds_match_cards"},
    ),
    "two holds of one card": (
        """DROP INDEX review_hold;
           INSERT INTO review (account_id, review_id, request_id, card_id, recycling_id, kind, platform, state,
                               create_time, hold_until, reason_codes, policy_revision, model_version, note, version)
           SELECT account_id, id(400), id(209), card_id, recycling_id, 'REACTIVATE', platform, state, create_time,
                  hold_until, reason_codes, policy_revision, model_version, note, version
           FROM review WHERE review_id = id(308)""",
        {"holds_match_cards", "unique_keys_stand", "reviews_have_causes", "windows_move_by_holds"},
    ),
    "a held card set free without event": (
        "UPDATE card SET held_since = NULL, hold_until = NULL WHERE card_id = id(8)",
        {"holds_match_cards", "cards_match_events"},
    ),
    "a held card set free without verdict": (
        """UPDATE card SET held_since = NULL, hold_until = NULL, version = 4 WHERE card_id = id(8);
           INSERT INTO card_event
           SELECT account_id, card_id, 4, 'RELEASED', state, activate_by_time, activate_time, expire_time, generation,
                  renewals_used, recycling_id, id(999), at(3)
           FROM card_event WHERE card_id = id(8) AND version = 3""",
        {"holds_match_cards", "events_have_commands"},
    ),
    "a held card activated": (
        """UPDATE card_event SET kind = 'ACTIVATED', state = 'ACTIVE', activate_time = at(5), expire_time = at(43205)
           WHERE card_id = id(7) AND version = 4;
           UPDATE card SET activate_time = at(5), expire_time = at(43205) WHERE card_id = id(7)""",
        {"transitions_are_legal", "events_have_commands", "reviews_have_effects"},
    ),
    "a hold that gave time away": (
        """UPDATE card SET expire_time = at(43205) WHERE card_id = id(7);
           UPDATE card_event SET expire_time = at(43205) WHERE card_id = id(7) AND version = 4""",
        {"validity_follows_events"},
    ),
    "a recycle in review without its terms": (
        "UPDATE recycling SET amount = 2697 WHERE recycling_id = id(48)",
        {"holds_keep_terms", "terms_match_policy"},
    ),
    "an approval on other terms": (
        "UPDATE recycling SET fee_minor = 299 WHERE recycling_id = id(46)",
        {"holds_keep_terms", "terms_match_policy"},
    ),
    "an approval without effect": (
        """UPDATE review SET state = 'APPROVED', reviewer = 'anna', resolve_time = at(5), resolve_request_id = id(999)
           WHERE review_id = id(308)""",
        {"holds_match_cards", "reviews_have_effects", "recyclings_match_events", "verdicts_are_labelled"},
    ),
    "a denial that was not heeded": (
        """UPDATE recycling SET decision = '{"risk_band": "MEDIUM", "reason_codes": ["RISK_MEDIUM"]}'
           WHERE recycling_id = id(47)""",
        {"reviews_have_effects"},
    ),
    "a verdict after the end of the hold": (
        "UPDATE review SET hold_until = at(4) WHERE review_id = id(307)",
        {"reviews_have_effects"},
    ),
    "a lapse at another time": (
        "UPDATE review SET hold_until = at(104) WHERE review_id = id(312)",
        {"reviews_have_effects"},
    ),
    "a verdict of no command": ("DELETE FROM command WHERE request_id = id(230)", {"reviews_have_effects"}),
    "a verdict forgotten": (
        "DELETE FROM review WHERE review_id = id(310)",
        {"commands_have_effects", "settlements_were_due", "verdicts_are_labelled"},
    ),
    "a denied payment after all": (
        "UPDATE recycling SET compensation_state = 'PENDING' WHERE recycling_id = id(51)",
        {"reviews_have_effects", "blocked_when_paid_back"},
    ),
    "a settlement before its approval": (
        """UPDATE review SET resolve_time = at(7) WHERE review_id = id(310);
           UPDATE command SET create_time = at(7) WHERE request_id = id(230)""",
        {"settlements_were_due", "verdicts_are_labelled"},
    ),
    "a settlement held that nobody reviews": (
        "UPDATE recycling SET settlement_held = true WHERE recycling_id = id(46)",
        {"reviews_have_causes"},
    ),
    "a review of another request": (
        "UPDATE review SET request_id = id(146) WHERE review_id = id(311)",
        {"reviews_have_causes", "verdicts_are_labelled"},
    ),
    "a window moved too far": (
        "UPDATE recycling SET window_moved_us = window_moved_us + 1 WHERE recycling_id = id(49)",
        {"windows_move_by_holds"},
    ),
    "a command of tomorrow": (
        "UPDATE command SET create_time = at(500001)",
        {
            "goodwill_within_caps",
            "redemptions_match_offers",
            "nothing_from_the_future",
            "events_have_commands",
            "postings_have_commands",
            "recyclings_have_commands",
            "reviews_have_causes",
            "reviews_have_effects",
            "events_name_commands",
        },
    ),
    "an event before the issue": (
        "UPDATE card_event SET event_time = at(0) WHERE card_id = id(3)",
        {"nothing_from_the_future", "events_have_commands", "validity_follows_events"},
    ),
    "a bonus out of nowhere": (
        """INSERT INTO price (platform, tier, from_time, until_time, policy_revision, demand, supply, waiting,
                              prior_bonus, bonus, create_time)
           VALUES ('iqiyi', 'BASIC', at(1990), at(1991), 1, 9, 1, 0, 0, 5000000, at(1980))""",
        {"prices_follow_from_markets"},
    ),
    "a recycling of no revision": (
        """DELETE FROM policy_activation WHERE platform = 'netflix';
           DELETE FROM policy_revision WHERE platform = 'netflix'""",
        {"policies_of_record", "decided_by_the_policy_in_force"},
    ),
    "a server that may change events": (
        "GRANT UPDATE (event_time) ON card_event TO recycling_server",
        {"records_are_append_only"},
    ),
    "a server that may empty a partition": (
        "GRANT TRUNCATE ON risk_event_default TO recycling_server",
        {"records_are_append_only"},
    ),
    "a part of the risk log that expired too early": (
        """INSERT INTO risk_event_expiry (before_time, expire_time)
           VALUES (timestamptz '2020-01-01' - interval '179 days', timestamptz '2020-01-01')""",
        {"events_are_kept_for_180_days"},
    ),
    "an outcome of nothing": (
        """ALTER TABLE outcome DROP CONSTRAINT outcome_account_id_recycling_id_fkey;
           UPDATE outcome SET recycling_id = id(99) WHERE recycling_id = id(15)""",
        {"outcomes_name_recyclings", "abuse_is_labelled"},
    ),
    "an outcome that credits another model": (
        "UPDATE outcome SET model_version = 'm2' WHERE recycling_id = id(15)",
        {"outcomes_match_recyclings"},
    ),
    "an outcome of another score": (
        "UPDATE outcome SET risk_score = NULL WHERE recycling_id = id(15)",
        {"outcomes_match_recyclings"},
    ),
    "an outcome of a state that never was": (
        "UPDATE outcome SET state = 'REVERSED' WHERE recycling_id = id(15)",
        {"outcomes_match_recyclings"},
    ),
    "an outcome of tomorrow": (
        "UPDATE outcome SET record_time = at(500001) WHERE recycling_id = id(15)",
        {"nothing_from_the_future"},
    ),
    "an outcome before its recycling": (
        "UPDATE outcome SET outcome_time = at(2) WHERE recycling_id = id(15)",
        {"nothing_from_the_future"},
    ),
    "a complaint that features do not see": (
        "DELETE FROM risk_event WHERE kind = 'COMPLAINT'",
        {"complaints_are_events"},
    ),
    "a complaint that nobody made": (
        "DELETE FROM outcome WHERE kind = 'COMPLAINT'",
        {"complaints_are_events"},
    ),
    "an event of another's command": (
        "UPDATE risk_event SET request_id = id(116) WHERE request_id = id(112)",
        {"events_name_commands"},
    ),
    "a device forgotten": (
        "DELETE FROM risk_pair WHERE kind = 1",
        {"risk_pairs_are_complete", "confirmed_abuse_is_remembered"},
    ),
    "a card on a device forgotten": ("DELETE FROM risk_link WHERE kind = 1", {"risk_links_are_complete"}),
    "a device at an address remembered late": (
        "UPDATE risk_link SET first_time = at(4) + interval '1 hour' WHERE kind = 3",
        {"risk_links_are_complete"},
    ),
    "a device of confirmed abuse that is not marked": (
        "DELETE FROM risk_pair WHERE kind = 8",
        {"confirmed_abuse_is_remembered"},
    ),
    "a device marked before its abuse was confirmed": (
        "UPDATE risk_pair SET first_time = at(1499) WHERE kind = 8",
        {"confirmed_abuse_is_remembered"},
    ),
    "a device marked without a label": (
        "DELETE FROM risk_label WHERE account_id = 'a'",
        {"confirmed_abuse_is_remembered", "abuse_is_labelled"},
    ),
    "abuse that became known late": (
        """UPDATE risk_label SET label_time = at(1501) WHERE account_id = 'a';
           UPDATE risk_pair SET first_time = at(1501) WHERE kind = 8""",
        {"abuse_is_labelled"},
    ),
    "a verdict that nobody learns from": (
        "DELETE FROM risk_label WHERE request_id = id(209)",
        {"verdicts_are_labelled"},
    ),
    "a verdict that is learnt the wrong way round": (
        "UPDATE risk_label SET label = 1 WHERE request_id = id(146)",
        {"verdicts_are_labelled"},
    ),
    "a verdict known before it was given": (
        "UPDATE risk_label SET label_time = at(4) WHERE request_id = id(146)",
        {"verdicts_are_labelled"},
    ),
    "a label of a review that lapsed": (
        """INSERT INTO risk_label (account_id, recycling_id, request_id, label, source, label_time)
           VALUES ('b', id(52), id(152), 1, 'review', at(103))""",
        {"verdicts_are_labelled"},
    ),
    "a server that may change labels": (
        "GRANT UPDATE (label) ON risk_label TO recycling_server",
        {"records_are_append_only"},
    ),
    "an event of a transaction to come": (
        "UPDATE card_event SET xact = '999999999999' WHERE card_id = id(3)",
        {"events_are_told"},
    ),
    "a relay that stands at an event of another time": (
        """INSERT INTO event_relay (relay, holder, lease_until, xact, account_id, subject_id, version, event_time)
           SELECT 'r', id(1), at(1), xact, account_id, card_id, version, at(0) FROM card_event WHERE card_id = id(3)
           LIMIT 1""",
        {"relays_stand_at_events"},
    ),
    "a device remembered late": (
        "UPDATE risk_pair SET first_time = at(4) + interval '1 hour' WHERE kind = 1",
        {"risk_pairs_are_complete"},
    ),
}


async def violated(owner_url: str, *statements: str) -> dict[str, InvariantResult]:
    """Runs `statements` as the owner; the rules broken afterwards, by name."""
    connection = await asyncpg.connect(owner_url, timeout=10)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()
    return {result.name: result for result in await check_invariants(owner_url) if not result.holds}


async def test_new_database_is_sound(fresh_database: FreshDatabase) -> None:
    """A database without any record breaks no rule."""
    owner_url, _ = await fresh_database()
    assert await violated(owner_url) == {}


async def test_sound_history_passes(fresh_database: FreshDatabase) -> None:
    """Recycling, clawback, coupons and refusals, rightly recorded, break no rule."""
    owner_url, _ = await fresh_database()
    assert await violated(owner_url, HISTORY) == {}


async def test_server_role_may_check(fresh_database: FreshDatabase) -> None:
    """The check needs no more rights than the server has."""
    _, server_url = await fresh_database()
    assert [result.violations for result in await check_invariants(server_url)] == [0] * len(invariants())


@pytest.mark.parametrize("deed", VIOLATIONS)
async def test_violation_is_named(fresh_database: FreshDatabase, deed: str) -> None:
    """Each planted violation is reported by the rules that it breaks, and by no others."""
    owner_url, _ = await fresh_database()
    statements, broken = VIOLATIONS[deed]
    assert set(await violated(owner_url, HISTORY, statements)) == broken


async def test_every_rule_can_fail() -> None:
    """No rule is without a planted violation."""
    assert {invariant.name for invariant in invariants()} == set().union(*(broken for _, broken in VIOLATIONS.values()))


async def test_samples_are_few(fresh_database: FreshDatabase) -> None:
    """However many rows break a rule, all are counted and a few are shown."""
    owner_url, _ = await fresh_database()
    result = (await violated(owner_url, HISTORY, VIOLATIONS["a command of tomorrow"][0]))["nothing_from_the_future"]
    assert (result.violations, len(result.samples)) == (77, SAMPLES_MAX)


async def test_verify_names_every_rule(fresh_database: FreshDatabase) -> None:
    """On a sound database `recycling verify` says OK to each rule, and succeeds."""
    _, server_url = await fresh_database()
    done = await recycling("verify", DATABASE_URL=server_url)
    assert done.code == 0
    assert [line.split()[1:3] for line in done.out.splitlines()] == [[rule.name, "OK"] for rule in invariants()]


async def test_verify_fails_on_a_violation(fresh_database: FreshDatabase) -> None:
    """On a violated database `recycling verify` names the rule, and fails."""
    owner_url, _ = await fresh_database()
    await violated(owner_url, HISTORY, VIOLATIONS["a device remembered late"][0])
    done = await recycling("verify", "--database-url", owner_url, "--json")
    assert done.code == 1
    assert [rule["name"] for rule in json.loads(done.out) if rule["violations"]] == ["risk_pairs_are_complete"]
