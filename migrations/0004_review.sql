-- Why: a suspicious request waits for a person's verdict. A review says what waits; a card that is held for one says so
-- in its row, so that what time does to the hold follows from the row alone.

CREATE TABLE review (
  account_id text NOT NULL,
  review_id uuid NOT NULL,
  -- The command that opened it, whose receipt holds what was known of the request.
  request_id uuid NOT NULL,
  card_id uuid NOT NULL,
  recycling_id uuid NOT NULL,
  kind text NOT NULL CHECK (kind IN ('RECYCLE', 'REACTIVATE', 'SETTLEMENT')),
  platform text NOT NULL,
  -- CLAIMED is never stored: it follows from claim_until. Nor need EXPIRED be: it follows from OPEN and hold_until.
  state text NOT NULL CHECK (state IN ('OPEN', 'APPROVED', 'DENIED', 'EXPIRED', 'CLOSED')),
  create_time timestamptz NOT NULL,
  hold_until timestamptz,
  risk_score double precision CHECK (risk_score BETWEEN 0 AND 1),
  risk_band text CHECK (risk_band IN ('LOW', 'MEDIUM', 'HIGH')),
  reason_codes json NOT NULL,
  policy_revision text NOT NULL,
  model_version text NOT NULL,
  -- What an approval applies: the columns of the held recycling that say so. Null where no recycling is held.
  terms json,
  claimed_by text CHECK (length(claimed_by) BETWEEN 1 AND 128),
  claim_until timestamptz,
  -- Who gave the verdict, why, when, and by which command it ended. A verdict is a label of the request.
  reviewer text CHECK (length(reviewer) BETWEEN 1 AND 128),
  note text NOT NULL CHECK (length(note) <= 2000),
  resolve_time timestamptz,
  resolve_request_id uuid,
  -- Until when one of the servers means to record the lapse of the hold. Not part of the record.
  sweep_until timestamptz,
  version bigint NOT NULL CHECK (version >= 1),
  PRIMARY KEY (account_id, review_id),
  FOREIGN KEY (account_id, recycling_id) REFERENCES recycling (account_id, recycling_id),
  CHECK ((kind = 'SETTLEMENT') = (hold_until IS NULL)),
  CHECK ((kind = 'RECYCLE') = (terms IS NOT NULL)),
  CHECK ((claimed_by IS NULL) = (claim_until IS NULL)),
  CHECK ((state = 'OPEN') = (resolve_time IS NULL) AND (state = 'OPEN') = (resolve_request_id IS NULL)),
  CHECK ((state IN ('APPROVED', 'DENIED')) = (reviewer IS NOT NULL))
);

-- A card is held for one thing at a time, and what it is owed waits for one review.
CREATE UNIQUE INDEX review_hold ON review (account_id, card_id) WHERE state = 'OPEN' AND kind <> 'SETTLEMENT';
CREATE UNIQUE INDEX review_settlement ON review (account_id, card_id) WHERE state = 'OPEN' AND kind = 'SETTLEMENT';
CREATE INDEX review_newest ON review (account_id, create_time DESC, review_id DESC);
-- Exceptions to the distribution key: reviewers work across accounts, and time's work is found across accounts.
CREATE INDEX review_oldest ON review (state, create_time, review_id);
CREATE INDEX review_by_id ON review (review_id);
CREATE INDEX review_due ON review (hold_until) WHERE state = 'OPEN';

ALTER TABLE card
  ADD COLUMN held_since timestamptz,
  ADD COLUMN hold_until timestamptz,
  ADD CONSTRAINT card_hold_check CHECK (
    (held_since IS NULL) = (hold_until IS NULL) AND held_since < hold_until) NOT VALID,
  ADD CONSTRAINT card_held_state_check CHECK (held_since IS NULL OR state <> 'VOID') NOT VALID;

ALTER TABLE card_event
  ADD COLUMN held_since timestamptz,
  ADD COLUMN hold_until timestamptz,
  -- squawk-ignore ban-drop-constraint -- the next line brings it back, wider
  DROP CONSTRAINT card_event_kind_check,
  ADD CONSTRAINT card_event_kind_check CHECK (
    kind IN ('ISSUED', 'ACTIVATED', 'RECYCLED', 'REACTIVATED', 'VOIDED', 'HELD', 'RELEASED')) NOT VALID;

ALTER TABLE recycling
  ADD COLUMN hold_until timestamptz,
  -- By how much holds for reactivation prolong the window; an open one counts in full.
  ADD COLUMN window_moved_us bigint NOT NULL DEFAULT 0,
  ADD CONSTRAINT recycling_hold_check CHECK ((state = 'IN_REVIEW') = (hold_until IS NOT NULL)) NOT VALID,
  ADD CONSTRAINT recycling_window_check CHECK (window_moved_us >= 0) NOT VALID;

-- Settlements that were held while there were no reviews: each gets one, else nobody could ever release them.
INSERT INTO review (account_id, review_id, request_id, card_id, recycling_id, kind, platform, state, create_time,
                    risk_score, risk_band, reason_codes, policy_revision, model_version, note, version)
SELECT account_id, gen_random_uuid(), request_id, card_id, recycling_id, 'SETTLEMENT', platform, 'OPEN', create_time,
       (decision ->> 'risk_score')::double precision, decision ->> 'risk_band', decision -> 'reason_codes',
       decision ->> 'policy_revision', decision ->> 'model_version', '', 1
FROM recycling
WHERE state = 'APPROVED' AND settlement_held AND compensation_state = 'PENDING';

GRANT SELECT, INSERT ON review TO recycling_server;
GRANT UPDATE (state, claimed_by, claim_until, reviewer, note, resolve_time, resolve_request_id, sweep_until, version)
  ON review TO recycling_server;
