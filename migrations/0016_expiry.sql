-- Why: the risk log expires by whole partitions, once all of one's events are older than is kept. What is kept for ever is
-- not here: `risk_pair`, `risk_link` and `risk_label` go on knowing what expired events have shown.

-- Up to when the risk log has expired. One row a partition; what checks the log looks no further back.
CREATE TABLE risk_event_expiry (
  -- The end of the partition, exclusive.
  before_time timestamptz PRIMARY KEY,
  expire_time timestamptz NOT NULL DEFAULT service_clock()
);
GRANT SELECT ON risk_event_expiry TO recycling_server;

-- Drops the oldest partition if all its events are older than `keep`, and returns its name; null where there is none such.
-- For the owner. One partition a call, so that what else uses the log waits for one only.
CREATE FUNCTION expire_risk_events(keep interval) RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
  oldest text;
  upper_bound timestamptz;
BEGIN
  IF keep < interval '180 days' THEN
    RAISE EXCEPTION 'risk events are kept for 180 days at least' USING ERRCODE = 'invalid_parameter_value';
  END IF;
  SELECT partition.name, make_timestamptz(partition.year + partition.quarter / 4, partition.quarter % 4 * 3 + 1, 1, 0, 0, 0,
                                          'UTC')
  INTO oldest, upper_bound
  FROM (
    SELECT c.relname AS name, substr(c.relname, 12, 4)::integer AS year, substr(c.relname, 17, 1)::integer AS quarter
    FROM pg_inherits AS i
    JOIN pg_class AS c ON c.oid = i.inhrelid
    WHERE i.inhparent = 'risk_event'::regclass AND c.relname ~ '^risk_event_[0-9]{4}q[1-4]$'
  ) AS partition
  ORDER BY partition.name LIMIT 1;
  IF upper_bound IS NULL OR upper_bound > service_clock() - keep THEN
    RETURN NULL;
  END IF;
  EXECUTE format('DROP TABLE %I', oldest);
  INSERT INTO risk_event_expiry (before_time) VALUES (upper_bound) ON CONFLICT DO NOTHING;
  RETURN oldest;
END
$$;
REVOKE ALL ON FUNCTION expire_risk_events(interval) FROM PUBLIC;
