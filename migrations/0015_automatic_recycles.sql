-- Why: what the service recycles by itself is judged, and labelled by what becomes of it, but it is nothing that its account
-- did. So it is an event of a kind of its own, which no feature counts as an attempt.
--
-- Such recycles of before stay RECYCLE, as they were counted when later requests were judged; they are out of every window
-- after 30 days. Servers of the release before go on writing those.
-- squawk-ignore-file ban-drop-constraint

ALTER TABLE risk_event
  DROP CONSTRAINT risk_event_kind_check,
  ADD CONSTRAINT risk_event_kind_check CHECK (
    kind IN ('ISSUE', 'ACTIVATE', 'RECYCLE', 'AUTO_RECYCLE', 'REACTIVATE', 'COMPENSATE', 'COMPLAINT')) NOT VALID;
