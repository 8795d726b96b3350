-- Why: the bonus on top of a policy's fixed terms floats with the market, and each one is kept with what it follows from.

-- Immutable: what is decided within a period has the bonus that was there when it began.
CREATE TABLE price (
  platform text NOT NULL,
  tier text NOT NULL CHECK (tier IN ('BASIC', 'PREMIUM')),
  from_time timestamptz NOT NULL,
  until_time timestamptz NOT NULL,
  policy_revision integer NOT NULL,
  demand bigint NOT NULL CHECK (demand >= 0),
  supply bigint NOT NULL CHECK (supply >= 0),
  waiting bigint NOT NULL CHECK (waiting >= 0),
  -- Millionths of a basis point.
  prior_bonus bigint NOT NULL CHECK (prior_bonus BETWEEN 0 AND 10000000000),
  bonus bigint NOT NULL CHECK (bonus BETWEEN 0 AND 10000000000),
  create_time timestamptz NOT NULL CHECK (create_time < from_time),
  PRIMARY KEY (platform, tier, from_time),
  CHECK (from_time < until_time),
  FOREIGN KEY (platform, policy_revision) REFERENCES policy_revision (platform, revision)
);
GRANT SELECT, INSERT ON price TO recycling_server;

-- What happened lately is counted once a period. Events come in the order of their time, nearly.
-- squawk-ignore require-concurrent-index-creation -- small, and quickly made
CREATE INDEX card_event_time ON card_event USING brin (event_time) WITH (autosummarize = on);
-- squawk-ignore require-concurrent-index-creation -- of the cards that wait alone
CREATE INDEX card_waiting_by_tier ON card (platform, tier) WHERE state = 'RECYCLED';
