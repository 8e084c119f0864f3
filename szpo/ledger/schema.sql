-- One file holds one run. Everything but step state, seats' expiry, the controller's lease and
-- persons' data is append-only by trigger; the hash of each appended row stands in an event.
PRAGMA application_id = 0x535A504F;   -- 'SZPO'
PRAGMA user_version = 5;

CREATE TABLE runs (
  run               TEXT PRIMARY KEY CHECK (length(run) BETWEEN 1 AND 64),
  root_seed         INTEGER NOT NULL CHECK (root_seed >= 0),
  spec              TEXT NOT NULL,
  spec_sha256       TEXT NOT NULL CHECK (length(spec_sha256) = 64),
  base_sha256       TEXT NOT NULL CHECK (length(base_sha256) = 64),
  basis_sha256      TEXT CHECK (length(basis_sha256) = 64),
  layout_sha256     TEXT NOT NULL CHECK (length(layout_sha256) = 64),
  created_us        INTEGER NOT NULL
) STRICT;

CREATE TABLE controller (                 -- one row: who drives the run; epoch is the fence
  run          TEXT PRIMARY KEY REFERENCES runs,
  lease        TEXT,
  expires_us   INTEGER CHECK ((lease IS NULL) = (expires_us IS NULL)),
  epoch        INTEGER NOT NULL DEFAULT 0 CHECK (epoch >= 0),
  paused_by    TEXT,
  pause_reason TEXT CHECK ((paused_by IS NULL) = (pause_reason IS NULL)),
  stop_at      INTEGER CHECK (stop_at >= 0)
) STRICT;

CREATE TABLE steps (
  run            TEXT NOT NULL REFERENCES runs,
  step           INTEGER NOT NULL CHECK (step >= 0),
  epoch          INTEGER NOT NULL CHECK (epoch >= 1),
  pairing        TEXT NOT NULL CHECK (pairing IN ('antithetic', 'forward', 'pool', 'mixed')),
  mu             REAL NOT NULL CHECK (mu > 0),
  n              INTEGER NOT NULL CHECK (n > 0),
  d              INTEGER NOT NULL CHECK (d > 0),
  m              INTEGER NOT NULL CHECK (m > 0),
  k              INTEGER NOT NULL CHECK (k > 0),
  head_sha256    TEXT NOT NULL CHECK (length(head_sha256) = 64),
  state          TEXT NOT NULL CHECK (state IN
                   ('planned', 'generating', 'open', 'closed', 'applied')),
  opened_us      INTEGER,
  closed_us      INTEGER,
  closed_by      TEXT CHECK (closed_by IN ('rule', 'deadline', 'operator', 'auto')),
  last_vote      INTEGER,
  last_amendment INTEGER,
  counted        TEXT,                    -- ids of the votes that count, JSON
  PRIMARY KEY (run, step),
  CHECK (state NOT IN ('closed', 'applied')
         OR (closed_by IS NOT NULL AND last_vote IS NOT NULL AND last_amendment IS NOT NULL
             AND counted IS NOT NULL))
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX one_step_in_preparation ON steps (run)
  WHERE state IN ('planned', 'generating');
CREATE UNIQUE INDEX one_step_before_people ON steps (run) WHERE state IN ('open', 'closed');

CREATE TABLE comparisons (
  comparison  TEXT PRIMARY KEY,
  run         TEXT NOT NULL REFERENCES runs,
  step        INTEGER,                    -- NULL outside training (gold, final)
  kind        TEXT NOT NULL CHECK (kind IN
                ('train', 'gold', 'aa', 'final')),
  k           INTEGER,
  n           INTEGER,
  repeats     TEXT REFERENCES comparisons,
  expected    TEXT CHECK (expected IN ('plus', 'minus', 'tie')),
  identical   INTEGER NOT NULL CHECK (identical IN (0, 1)),
  rows_sha256 TEXT NOT NULL CHECK (length(rows_sha256) = 64),
  CHECK (kind <> 'train' OR (step IS NOT NULL AND k IS NOT NULL AND n IS NOT NULL)),
  FOREIGN KEY (run, step) REFERENCES steps
) STRICT;
CREATE UNIQUE INDEX one_comparison_per_place ON comparisons (run, step, k, n)
  WHERE kind = 'train';
CREATE INDEX comparisons_by_step ON comparisons (run, step);

CREATE TABLE answers (
  comparison TEXT NOT NULL REFERENCES comparisons,
  i          INTEGER NOT NULL CHECK (i >= 0),
  prompt     TEXT NOT NULL,   -- [[role, text], ...]
  plus       TEXT NOT NULL,
  minus      TEXT NOT NULL,
  plus_end   TEXT NOT NULL CHECK (plus_end IN ('stop', 'length')),
  minus_end  TEXT NOT NULL CHECK (minus_end IN ('stop', 'length')),
  PRIMARY KEY (comparison, i)
) STRICT, WITHOUT ROWID;

CREATE TABLE panelists (
  panelist   TEXT PRIMARY KEY,
  kind       TEXT NOT NULL CHECK (kind IN ('person', 'simulated', 'judge')),
  pseudonym  TEXT NOT NULL UNIQUE CHECK (length(pseudonym) BETWEEN 1 AND 64),
  created_us INTEGER NOT NULL
) STRICT;

CREATE TABLE assignments (
  assignment   TEXT PRIMARY KEY,
  comparison   TEXT NOT NULL REFERENCES comparisons,
  panelist     TEXT NOT NULL REFERENCES panelists,
  plus_side    TEXT NOT NULL CHECK (plus_side IN ('A', 'B')),
  prompt_order TEXT NOT NULL,
  sheet        TEXT,              -- rows that one panelist sees at once; NULL: a batch alone
  served_us    INTEGER NOT NULL,
  expires_us   INTEGER NOT NULL,
  released_us  INTEGER,
  tab          TEXT,
  UNIQUE (comparison, panelist)
) STRICT;
CREATE INDEX assignments_by_panelist ON assignments (panelist);

CREATE TABLE votes (
  vote           INTEGER PRIMARY KEY AUTOINCREMENT,   -- no id is ever used twice
  assignment     TEXT NOT NULL REFERENCES assignments,
  revision       INTEGER NOT NULL CHECK (revision >= 0),
  choice         TEXT NOT NULL CHECK (choice IN ('A', 'B', 'tie', 'skip')),
  skip_reason    TEXT,
  rubric_version INTEGER,
  dwell_ms       INTEGER CHECK (dwell_ms >= 0),
  details        TEXT,
  late           INTEGER NOT NULL CHECK (late IN (0, 1)),
  idem           TEXT NOT NULL CHECK (length(idem) BETWEEN 16 AND 64),
  payload_sha256 TEXT NOT NULL CHECK (length(payload_sha256) = 64),
  received_us    INTEGER NOT NULL,
  UNIQUE (assignment, revision),
  UNIQUE (assignment, idem)
) STRICT;

CREATE TABLE amendments (
  amendment INTEGER PRIMARY KEY AUTOINCREMENT,
  vote      INTEGER NOT NULL REFERENCES votes,
  action    TEXT NOT NULL CHECK (action IN ('exclude', 'reinstate')),
  reason    TEXT NOT NULL CHECK (length(reason) > 0),
  actor     TEXT NOT NULL,
  at_us     INTEGER NOT NULL
) STRICT;
CREATE INDEX amendments_by_vote ON amendments (vote);

CREATE TABLE updates (
  run          TEXT NOT NULL REFERENCES runs,
  step         INTEGER NOT NULL,
  k            INTEGER NOT NULL CHECK (k >= 0),
  coef         REAL,
  vector       BLOB CHECK ((coef IS NULL) <> (vector IS NULL)),   -- '<f4' bytes
  rule         TEXT NOT NULL,
  estimate     REAL,
  stderr       REAL,
  n_votes      REAL NOT NULL,
  votes_sha256 TEXT NOT NULL CHECK (length(votes_sha256) = 64),
  theta_sha256 TEXT NOT NULL CHECK (length(theta_sha256) = 64),
  prev_sha256  TEXT NOT NULL CHECK (length(prev_sha256) = 64),
  row_sha256   TEXT NOT NULL UNIQUE CHECK (length(row_sha256) = 64),
  epoch        INTEGER NOT NULL,
  applied_us   INTEGER NOT NULL,
  PRIMARY KEY (run, step, k),
  FOREIGN KEY (run, step) REFERENCES steps
) STRICT;

CREATE TABLE tensors (
  sha256 TEXT NOT NULL CHECK (length(sha256) = 64),
  name   TEXT NOT NULL,
  dtype  TEXT NOT NULL,
  shape  TEXT NOT NULL,
  bytes  BLOB NOT NULL,
  PRIMARY KEY (sha256, name)
) STRICT;

CREATE TABLE events (
  event       INTEGER PRIMARY KEY AUTOINCREMENT,
  run         TEXT NOT NULL REFERENCES runs,
  at_us       INTEGER NOT NULL,
  actor       TEXT NOT NULL,
  kind        TEXT NOT NULL,
  body        TEXT NOT NULL,
  prev_sha256 TEXT NOT NULL CHECK (length(prev_sha256) = 64),
  row_sha256  TEXT NOT NULL UNIQUE CHECK (length(row_sha256) = 64)
) STRICT;
CREATE INDEX events_by_kind ON events (kind, event);

CREATE TABLE credentials (               -- a person's secrets: hashes only, erasable
  credential    TEXT PRIMARY KEY,
  panelist      TEXT REFERENCES panelists,
  role          TEXT NOT NULL CHECK (role IN ('panelist', 'operator')),
  secret_sha256 TEXT NOT NULL UNIQUE,
  created_us    INTEGER NOT NULL,
  expires_us    INTEGER,
  revoked_us    INTEGER
) STRICT;

CREATE TABLE contacts (                  -- a person's data: erasable without touching the record
  panelist TEXT PRIMARY KEY REFERENCES panelists,
  name     TEXT
) STRICT;

CREATE TABLE remarks (                   -- lines that earlier versions asked for: erasable too
  panelist TEXT NOT NULL REFERENCES panelists,
  text     TEXT NOT NULL,
  at_us    INTEGER NOT NULL,
  PRIMARY KEY (panelist, text)
) STRICT;

-- The votes that count, as the close of their round fixed them, in their order. This is what
-- updates, reports and fits read; open rounds have none yet.
CREATE VIEW counted_votes AS
SELECT s.step, id.key AS place, v.vote, c.k, c.n, c.comparison, v.assignment, a.panelist,
       a.plus_side, v.choice, v.revision, v.received_us, v.details,
       CASE v.choice WHEN 'tie' THEN 'tie' WHEN a.plus_side THEN 'plus' ELSE 'minus' END AS verdict
FROM steps s
CROSS JOIN json_each(s.counted) id
CROSS JOIN votes v ON v.vote = id.value
CROSS JOIN assignments a USING (assignment)
CROSS JOIN comparisons c USING (comparison);

-- For people and other programs to read: a row for each vote and prompt, open rounds included.
-- JSON is read by table functions alone, which also work where a schema is not trusted.
CREATE VIEW readable_votes AS
SELECT v.vote, c.step, c.kind, c.comparison, p.pseudonym AS panelist,
       CASE v.choice WHEN 'tie' THEN 'tie' WHEN 'skip' THEN 'skip'
         WHEN s.plus_side THEN 'plus' ELSE 'minus' END AS winner,
       a.i,
       (SELECT group_concat(atom, char(10)) FROM json_tree(a.prompt)
        WHERE key = 1 AND type = 'text') AS prompt,
       a.plus, a.minus,
       (SELECT CASE atom WHEN 'tie' THEN 'tie' WHEN s.plus_side THEN 'plus' ELSE 'minus' END
        FROM json_each(v.details, '$.notes') WHERE key = CAST(a.i AS TEXT)) AS note,
       v.skip_reason, v.revision, v.late,
       coalesce((SELECT action = 'exclude' FROM amendments m WHERE m.vote = v.vote
                 ORDER BY amendment DESC LIMIT 1), 0) AS excluded,
       strftime('%Y-%m-%d %H:%M:%S', v.received_us / 1000000, 'unixepoch') AS received_utc
FROM votes v
JOIN assignments s USING (assignment)
JOIN comparisons c USING (comparison)
JOIN panelists p USING (panelist)
JOIN answers a USING (comparison);

-- The fence: whoever lost the lease can neither move a step nor write an update.
CREATE TRIGGER steps_fence_insert BEFORE INSERT ON steps
  WHEN NEW.epoch IS NOT (SELECT epoch FROM controller WHERE run = NEW.run)
  BEGIN SELECT RAISE(ABORT, 'stale controller'); END;
CREATE TRIGGER steps_fence_update BEFORE UPDATE ON steps
  WHEN NEW.epoch IS NOT (SELECT epoch FROM controller WHERE run = NEW.run)
  BEGIN SELECT RAISE(ABORT, 'stale controller'); END;
CREATE TRIGGER updates_fence BEFORE INSERT ON updates
  WHEN NEW.epoch IS NOT (SELECT epoch FROM controller WHERE run = NEW.run)
  BEGIN SELECT RAISE(ABORT, 'stale controller'); END;

CREATE TRIGGER steps_gapless BEFORE INSERT ON steps
  WHEN NEW.step <> (SELECT coalesce(max(step) + 1, 0) FROM steps WHERE run = NEW.run)
  BEGIN SELECT RAISE(ABORT, 'steps leave no gap'); END;
CREATE TRIGGER steps_plan_is_fixed BEFORE UPDATE OF
    run, step, pairing, mu, d, m, k, head_sha256 ON steps
  BEGIN SELECT RAISE(ABORT, 'the plan of a step is fixed'); END;
CREATE TRIGGER steps_size_is_fixed BEFORE UPDATE OF n ON steps WHEN OLD.state <> 'planned'
  BEGIN SELECT RAISE(ABORT, 'the size of a step is fixed'); END;
CREATE TRIGGER steps_close_is_fixed BEFORE UPDATE OF
    opened_us, closed_us, closed_by, last_vote, last_amendment, counted ON steps
  WHEN OLD.state IN ('closed', 'applied')
  BEGIN SELECT RAISE(ABORT, 'a closed step stays as it was closed'); END;
CREATE TRIGGER steps_go_forward BEFORE UPDATE OF state ON steps
  WHEN NOT ((OLD.state = 'planned' AND NEW.state = 'generating')
         OR (OLD.state = 'generating' AND NEW.state IN ('generating', 'open'))
         OR (OLD.state = 'open' AND NEW.state = 'closed')
         OR (OLD.state = 'closed' AND NEW.state = 'applied'))
  BEGIN SELECT RAISE(ABORT, 'a step only goes forward'); END;
CREATE TRIGGER steps_no_delete BEFORE DELETE ON steps
  BEGIN SELECT RAISE(ABORT, 'steps are never deleted'); END;
CREATE TRIGGER updates_of_closed_steps BEFORE INSERT ON updates
  WHEN 'closed' IS NOT (SELECT state FROM steps WHERE run = NEW.run AND step = NEW.step)
  BEGIN SELECT RAISE(ABORT, 'only a closed step is applied'); END;
CREATE TRIGGER epoch_only_grows BEFORE UPDATE OF epoch ON controller WHEN NEW.epoch < OLD.epoch
  BEGIN SELECT RAISE(ABORT, 'the epoch only grows'); END;
CREATE TRIGGER assignments_no_delete BEFORE DELETE ON assignments
  BEGIN SELECT RAISE(ABORT, 'assignments is append-only'); END;
CREATE TRIGGER assignments_no_update BEFORE UPDATE OF
    assignment, comparison, panelist, plus_side, prompt_order, sheet ON assignments
  BEGIN SELECT RAISE(ABORT, 'assignments is append-only'); END;
