-- Why: revisions are made first and govern later, from a time on that is planned and recorded; a former one can be taken up
-- again; and all platforms' policies are checked together before one is activated.
--
-- A revision that is inserted with a finite effective_time is activated with it, as servers of before this migration
-- do; PolicyService inserts 'infinity', which those never take for effective, and activates apart.

ALTER TABLE policy_revision ADD COLUMN actor text CHECK (length(actor) BETWEEN 1 AND 128);
ALTER TABLE policy_revision ADD COLUMN note text CHECK (length(note) <= 500);

-- From when on which revision governs: of those whose time has come the latest does; of one time the last that was told.
CREATE TABLE policy_activation (
  platform text NOT NULL,
  activation integer NOT NULL CHECK (activation >= 1),
  revision integer NOT NULL,
  effective_time timestamptz NOT NULL,
  create_time timestamptz NOT NULL,
  actor text CHECK (length(actor) BETWEEN 1 AND 128),
  note text CHECK (length(note) <= 500),
  PRIMARY KEY (platform, activation),
  FOREIGN KEY (platform, revision) REFERENCES policy_revision (platform, revision)
);
CREATE UNIQUE INDEX policy_activation_in_force ON policy_activation (platform, effective_time, activation);

INSERT INTO policy_activation (platform, activation, revision, effective_time, create_time)
SELECT platform, row_number() OVER (PARTITION BY platform ORDER BY revision), revision, effective_time, create_time
FROM policy_revision;

-- The guard of the check over all platforms: who activates has seen this version.
CREATE TABLE policy_set (
  singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
  version bigint NOT NULL CHECK (version >= 1)
);
INSERT INTO policy_set (version) VALUES (1);

CREATE FUNCTION activate_policy_at_once() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO policy_activation (platform, activation, revision, effective_time, create_time, actor, note)
  SELECT NEW.platform, coalesce(max(activation), 0) + 1, NEW.revision, NEW.effective_time, NEW.create_time, NEW.actor,
         NEW.note
  FROM policy_activation WHERE platform = NEW.platform;
  UPDATE policy_set SET version = version + 1;
  RETURN NULL;
END
$$;

CREATE TRIGGER policy_activated_at_once AFTER INSERT ON policy_revision
FOR EACH ROW WHEN (NEW.effective_time < 'infinity') EXECUTE FUNCTION activate_policy_at_once();

GRANT SELECT, INSERT ON policy_activation TO recycling_server;
GRANT SELECT, UPDATE (version) ON policy_set TO recycling_server;
