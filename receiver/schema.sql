-- The tables of a platform. The bodies of packs are the evidence. Each body contains exactly the published bytes, in compressed form. So an auditor can
-- repeat every check with `meterhouse verify`, and need not trust our tables. All other data about packs is derived from the bodies and can be made again.
--
-- Hashes are the first 16 bytes of SHA-256 (a uuid): this is enough for joins and takes half the space. The full 32 bytes are calculated from the body.
-- boot is the number of 16 hex digits as a signed 64-bit integer. Times are UTC ms.

CREATE TABLE pins (                     -- the trusted keys; only the operator changes them (`platform enrol`)
  gateway text NOT NULL,                -- <site>/<gateway>
  thumbprint text NOT NULL,
  enrolled timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (gateway, thumbprint));

CREATE TABLE trust_changes (number bigint NOT NULL); -- one row; the number grows with each enrolment or removal, so that workers notice the change
INSERT INTO trust_changes VALUES (0);

CREATE TABLE dropped (before_ms bigint NOT NULL); -- packs that begin earlier were counted and then dropped

CREATE TABLE shard (                    -- one row: the index of this database, from 0, and the number of databases
  place int NOT NULL, shards int NOT NULL);

CREATE TABLE agreed (                   -- streams that are requested from a gateway; if a gateway has no row, all its streams are requested
  gateway text NOT NULL,
  stream text NOT NULL,                 -- last part of the stream's name, or a pattern
  PRIMARY KEY (gateway, stream));

CREATE TABLE unknown_gateways (         -- gateways that publish although they are not enrolled, for the operator; the worker limits their number
  gateway text PRIMARY KEY,
  thumbprint text NOT NULL,             -- newest key of the keys object that it published; nothing proves that the key is the gateway's
  keys bytea NOT NULL,
  seen timestamptz NOT NULL DEFAULT now());
CREATE INDEX ON unknown_gateways (seen);

CREATE TABLE gateways (
  name text PRIMARY KEY,
  keys bytea NOT NULL,                  -- the newest keys object, as published
  counter bigint NOT NULL,
  changed timestamptz NOT NULL DEFAULT now(),
  revoked jsonb,                        -- for each revoked key: the last trusted sequence of each stream
  cut boolean NOT NULL DEFAULT true);   -- false: stored packs after the sequences in revoked are not marked yet

CREATE TABLE statuses (                 -- status messages of enrolled gateways; they are not signed, so they are never evidence, only a hint
  gateway text PRIMARY KEY,
  version text NOT NULL,
  online boolean NOT NULL,
  ack_lists boolean NOT NULL,           -- the gateway accepts several acks in one message: {"acks": [...]}
  changed timestamptz NOT NULL DEFAULT now());

CREATE TABLE streams (
  id bigint PRIMARY KEY,                -- BLAKE2b-64 of the name, so that workers need no query for it
  name text NOT NULL UNIQUE,
  gateway text NOT NULL);
CREATE INDEX ON streams (gateway);

CREATE TABLE point_tables (             -- point tables are stored separately, because many births have the same points
  hash uuid PRIMARY KEY,
  value jsonb NOT NULL);                -- {"points", "epoch"}
CREATE TABLE births (
  hash uuid PRIMARY KEY,
  stream bigint NOT NULL,
  points uuid NOT NULL);

CREATE TABLE dictionaries (             -- dictionaries of zstd; a compressed body names its dictionary
  id bigint PRIMARY KEY,
  bytes bytea NOT NULL,
  made timestamptz NOT NULL DEFAULT now());

CREATE TABLE packs (
  stream bigint NOT NULL, seq bigint NOT NULL, boot bigint NOT NULL, prev_boot bigint,
  from_ms bigint NOT NULL, to_ms bigint NOT NULL,
  hash uuid NOT NULL, prev uuid, birth uuid NOT NULL,
  signer bigint NOT NULL,               -- place of the signing key in the gateway's chain of keys
  lot bigint NOT NULL,
  readings bigint NOT NULL, due bigint, gaps bigint, -- due is NULL if the pack is not settled yet, because its birth or another part of its tick is missing
  asleep bigint,                        -- number of gaps with the reason asleep
  reasons jsonb,                        -- missing readings by gap reason, such as {"timeout": 3}; NULL: there are no gaps
  part smallint, parts smallint,
  is_birth boolean NOT NULL, first boolean NOT NULL,
  steps bigint[],                       -- clock_step events: old time, new time, old time, new time ...
  faults text[],                        -- codes of rules that this pack breaks by itself
  body bytea NOT NULL,                  -- a zstd frame
  PRIMARY KEY (stream, seq, boot, from_ms)) PARTITION BY RANGE (from_ms);
ALTER TABLE packs ALTER body SET STORAGE EXTERNAL; -- the body is compressed already
CREATE INDEX ON packs (lot);
CREATE INDEX ON packs (stream, seq) WHERE is_birth;
CREATE INDEX ON packs (stream, seq, boot) WHERE faults IS NOT NULL;
CREATE INDEX ON packs (stream, boot, from_ms) WHERE due IS NULL;
CREATE TABLE packs_other PARTITION OF packs DEFAULT; -- packs whose month has no partition, because their times are implausible

CREATE TABLE forks (                    -- packs that have the identity of a pack in the table packs, but another content
  stream bigint NOT NULL, seq bigint NOT NULL, boot bigint NOT NULL, hash uuid NOT NULL, from_ms bigint NOT NULL, body bytea NOT NULL,
  PRIMARY KEY (stream, seq, boot, hash));

CREATE TABLE losses (                   -- packs that the gateway itself declares lost
  stream bigint NOT NULL, boot bigint NOT NULL, first bigint NOT NULL, last bigint NOT NULL, hash uuid NOT NULL,
  from_ms bigint NOT NULL, to_ms bigint NOT NULL, reason text NOT NULL,
  PRIMARY KEY (stream, boot, first, last, hash));

CREATE TABLE days (                     -- sums of settled packs without a fault; a pack counts for the UTC day in which it begins
  stream bigint NOT NULL, day date NOT NULL,
  packs bigint NOT NULL, readings bigint NOT NULL, due bigint NOT NULL, gaps bigint NOT NULL, asleep bigint NOT NULL,
  PRIMARY KEY (stream, day));
CREATE TABLE gap_days (
  stream bigint NOT NULL, day date NOT NULL, reason text NOT NULL, readings bigint NOT NULL,
  PRIMARY KEY (stream, day, reason));

CREATE TABLE lots (                     -- a lot: the packs that a worker stored in one transaction
  lot bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  packs int NOT NULL,
  stored timestamptz NOT NULL DEFAULT now(),
  checked timestamptz,
  batch bigint);                        -- the batch in which the lot is sent to ClickHouse; NULL: it is in no batch yet
CREATE INDEX ON lots (lot) WHERE checked IS NULL;
CREATE INDEX ON lots (lot) WHERE batch IS NULL;
CREATE INDEX ON lots (batch);

CREATE TABLE boots (                    -- the stored sequences of each start of the agent; this is all the state that the check of chains needs
  stream bigint NOT NULL, boot bigint NOT NULL,
  prev_boot bigint,                     -- the previous boot according to the first pack of this boot; NULL: none, or that pack is not stored
  begun boolean NOT NULL,               -- true: the first pack of this boot is stored
  line bigint NOT NULL,                 -- the boot that began the history to which this boot belongs; -1: not known
  seqs int8multirange NOT NULL,
  from_ms bigint NOT NULL, to_ms bigint NOT NULL,
  changed timestamptz NOT NULL DEFAULT now(),
  again timestamptz,                    -- when a pack of the boot was sent again, because its ack was lost: the keeper looks for new acks at this boot; such an old pack is no activity, so
                                        -- it does not change the column changed
  PRIMARY KEY (stream, boot)) WITH (fillfactor = 70);
CREATE INDEX ON boots (changed);
CREATE INDEX ON boots (again) WHERE again IS NOT NULL;

CREATE TABLE findings (                 -- contradictions and broken rules, by pack; they depend only on which packs are stored
  stream bigint NOT NULL, seq bigint NOT NULL, boot bigint NOT NULL, code text NOT NULL,
  found timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (stream, seq, boot, code));
CREATE INDEX ON findings (found);

CREATE TABLE checkpoints (              -- the newest pages of each gateway
  gateway text NOT NULL, page int NOT NULL, counter bigint NOT NULL, pages int NOT NULL, hash uuid NOT NULL,
  time_ms bigint NOT NULL, signer bigint NOT NULL, body bytea NOT NULL,
  PRIMARY KEY (gateway, page));
CREATE TABLE checkpoint_heads (         -- the highest head of each stream that a checkpoint names
  stream bigint PRIMARY KEY,
  boot bigint NOT NULL, seq bigint NOT NULL, hash uuid NOT NULL, to_ms bigint NOT NULL, counter bigint NOT NULL, retired boolean NOT NULL);

CREATE TABLE refused (                  -- refused messages; nothing in them is trusted; the worker limits their number
  at timestamptz NOT NULL DEFAULT now(), topic text NOT NULL, code text NOT NULL, why text NOT NULL, hash uuid NOT NULL,
  body bytea NOT NULL,                  -- at most the first 64 KiB of the message
  times bigint NOT NULL DEFAULT 1,
  gateway text GENERATED ALWAYS AS (split_part(topic, '/', 3) || '/' || split_part(topic, '/', 4)) STORED,
  PRIMARY KEY (topic, hash));
CREATE INDEX ON refused (gateway, at);

-- Numbers of refused messages by gateway, day and code. All refused messages are counted, although only few are kept.
CREATE TABLE refusals (
  gateway text NOT NULL, day date NOT NULL, code text NOT NULL,
  times bigint NOT NULL, why text NOT NULL, -- reason of the last refusal
  at timestamptz NOT NULL,
  PRIMARY KEY (gateway, day, code));

-- The sequences that are missing between stored packs. They are in the column lost if the gateway itself declares them lost, else in the column missing.
CREATE VIEW holes AS
WITH lines AS (SELECT stream, line, range_agg(seqs) AS seqs FROM (SELECT stream, line, unnest(seqs) AS seqs FROM boots) b GROUP BY 1, 2),
  gone AS (SELECT stream, line, int8multirange(range_merge(seqs)) - seqs AS seqs FROM lines)
SELECT g.stream, s.name, g.line, g.seqs - coalesce(l.seqs, '{}') AS missing, g.seqs * coalesce(l.seqs, '{}') AS lost
FROM gone g JOIN streams s ON s.id = g.stream
LEFT JOIN LATERAL (SELECT range_agg(int8range(first, last, '[]')) AS seqs FROM losses l WHERE l.stream = g.stream) l ON true
WHERE NOT isempty(g.seqs);

-- The largest plausible number of missing packs in one hole, or before a head. A gateway can sign any sequence. A sequence that implies more missing packs
-- is a finding, and is left out of all totals. Ten million packs are three years with a pack every ten seconds.
CREATE FUNCTION most_packs() RETURNS bigint LANGUAGE sql IMMUTABLE AS 'SELECT 10000000::bigint';

CREATE VIEW implausible AS
SELECT h.stream, h.seq, h.boot FROM checkpoint_heads h
  WHERE h.seq - coalesce((SELECT max(upper(b.seqs)) - 1 FROM boots b WHERE b.stream = h.stream), 0) > most_packs()
UNION ALL SELECT h.stream, upper(part.seqs), coalesce((SELECT b.boot FROM boots b WHERE b.stream = h.stream AND b.seqs @> upper(part.seqs) LIMIT 1), 0)
  FROM holes h CROSS JOIN LATERAL unnest(h.missing + h.lost) AS part (seqs) WHERE upper(part.seqs) - lower(part.seqs) > most_packs();

-- All findings: those of the table findings, and conflicts. Conflicts are computed here, because a pack that arrives later may resolve them. A conflict is a loss event
-- whose hash differs from the one that the next pack names as its predecessor, or a head of a checkpoint that contradicts the stored packs.
CREATE VIEW all_findings AS
SELECT stream, seq, boot, code, found FROM findings
UNION ALL SELECT DISTINCT l.stream, r.seq, r.boot, 'conflict', NULL::timestamptz FROM losses l JOIN packs r ON r.stream = l.stream AND r.seq = l.last + 1
  WHERE r.prev IS DISTINCT FROM l.hash AND NOT EXISTS (SELECT FROM packs p WHERE p.stream = l.stream AND p.seq = l.last)
UNION ALL SELECT h.stream, h.seq, h.boot, 'conflict', NULL FROM checkpoint_heads h JOIN packs p ON p.stream = h.stream AND p.seq = h.seq AND p.boot = h.boot
  WHERE p.hash <> h.hash
UNION ALL SELECT h.stream, h.seq, h.boot, 'conflict', NULL FROM checkpoint_heads h -- a later boot continues from a pack before this head
  WHERE EXISTS (SELECT FROM boots b WHERE b.stream = h.stream AND b.prev_boot = h.boot AND b.begun AND lower(b.seqs) <= h.seq)
UNION ALL SELECT h.stream, h.seq, h.boot, 'conflict', NULL FROM checkpoint_heads h -- the sequence is stored, but of another boot
  WHERE NOT EXISTS (SELECT FROM boots b WHERE b.stream = h.stream AND b.boot = h.boot AND b.seqs @> h.seq)
    AND EXISTS (SELECT FROM boots b WHERE b.stream = h.stream AND b.seqs @> h.seq)
    AND (SELECT count(DISTINCT b.line) = 1 AND min(b.from_ms) < h.to_ms FROM boots b WHERE b.stream = h.stream)
UNION ALL SELECT stream, seq, boot, 'implausible', NULL FROM implausible;

CREATE TABLE acked (                    -- ranges of sequences that were acknowledged to the gateway
  stream bigint NOT NULL, boot bigint NOT NULL, first bigint NOT NULL, last bigint NOT NULL, at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (stream, boot, first));

CREATE TABLE replays (                  -- ranges of missing packs that were requested from the gateway
  stream bigint NOT NULL, first bigint NOT NULL, last bigint NOT NULL, id text NOT NULL, asked timestamptz NOT NULL DEFAULT now(),
  times int NOT NULL DEFAULT 1,
  PRIMARY KEY (stream, first, last));

CREATE TABLE figures (                  -- results that a gateway calculated and signed (stream _indicators)
  stream bigint NOT NULL, seq bigint NOT NULL, boot bigint NOT NULL,
  kind text NOT NULL, id text NOT NULL, -- kind: figure, balance, trace or derived. id: set/indicator or the name of a point
  period text NOT NULL, label text NOT NULL, from_ms bigint NOT NULL, to_ms bigint NOT NULL,
  v numeric, u text, completeness numeric, verdict text, official boolean, -- v is NULL if there is no value, because an input was missing
  result jsonb NOT NULL,                -- the whole result as it was signed
  PRIMARY KEY (stream, kind, id, period, from_ms, seq, boot));

-- Readings for queries, which are stored if a worker runs with --readings. They are stored as one block per pack; the view readings makes rows of them.
CREATE TABLE layouts (                  -- names and units of a pack's records, in order; most packs of a device have the same layout
  hash uuid PRIMARY KEY,
  points text[] NOT NULL,
  units text[] NOT NULL);
CREATE TABLE reading_blocks (
  stream bigint NOT NULL, seq bigint NOT NULL, boot bigint NOT NULL, from_ms bigint NOT NULL,
  layout uuid NOT NULL,
  after_ms int[] NOT NULL,              -- read time in ms after from_ms
  v float8[] NOT NULL,                  -- NULL: the value is a text or a boolean
  other jsonb,                          -- other members of records: {"place in the pack, from 1": {"q", "x", "vs", "vb", "mt"}}
  PRIMARY KEY (stream, seq, boot, from_ms)) PARTITION BY RANGE (from_ms);
CREATE TABLE reading_blocks_other PARTITION OF reading_blocks DEFAULT;

-- Every verified reading. quality is NULL if the quality is good. exact is the signed decimal; it is NULL if the double is equal to it. The readings of packs that have a
-- finding, such as a broken seam, a fork or a clone, are left out. A finding with sequence 0 (a rollback or a clone) concerns all packs of its boot. The two conditions
-- are separate, because PostgreSQL can use an index or a hash for each of them.
CREATE VIEW readings AS
SELECT s.gateway, s.name AS stream, r.point, to_timestamp((b.from_ms + r.after_ms) / 1000.0) AS at, r.v AS value, l.units[r.place] AS unit,
  b.other -> r.place::text ->> 'q' AS quality, b.other -> r.place::text ->> 'x' AS exact, b.other -> r.place::text ->> 'vs' AS text, b.seq
FROM reading_blocks b JOIN streams s ON s.id = b.stream JOIN layouts l ON l.hash = b.layout
CROSS JOIN LATERAL unnest(l.points, b.after_ms, b.v) WITH ORDINALITY AS r (point, after_ms, v, place)
WHERE EXISTS (SELECT FROM packs p WHERE p.stream = b.stream AND p.seq = b.seq AND p.boot = b.boot AND p.from_ms = b.from_ms AND p.faults IS NULL)
  AND NOT EXISTS (SELECT FROM findings f WHERE f.stream = b.stream AND f.seq = b.seq AND f.boot = b.boot)
  AND NOT EXISTS (SELECT FROM findings f WHERE f.stream = b.stream AND f.seq = 0 AND f.boot = b.boot);

-- Completeness by UTC day, as regulators require it. share is the number of received readings divided by that of due readings. Readings
-- that are due while a device sleeps do not count.
CREATE VIEW completeness AS
SELECT s.gateway, s.name AS stream, d.day, d.packs, d.due, d.readings, d.gaps, d.asleep,
  CASE WHEN d.due > d.asleep THEN round((d.due - d.gaps)::numeric / (d.due - d.asleep), 6) END AS share
FROM days d JOIN streams s ON s.id = d.stream;

-- The newest signed result for each period, with the number of results that were signed for it. Earlier results, which it corrects, are only in the table figures.
-- Figures in packs that have a fault or a finding are left out. The packs themselves may have been dropped since. The newest figure is that of the history with
-- the latest activity (see latest_news.sql), and in it that with the highest sequence, because a new history begins at sequence 1 again.
CREATE VIEW latest_figures AS
SELECT DISTINCT ON (f.stream, f.kind, f.id, f.period, f.from_ms) s.gateway, split_part(s.gateway, '/', 1) AS site, f.kind, f.id, f.period, f.label,
  to_timestamp(f.from_ms / 1000.0) AS "from", to_timestamp(f.to_ms / 1000.0) AS "to", f.v, f.u, f.completeness, f.verdict, f.official, f.seq, f.result,
  count(*) OVER (PARTITION BY f.stream, f.kind, f.id, f.period, f.from_ms) AS versions
FROM figures f JOIN streams s ON s.id = f.stream
LEFT JOIN (SELECT b.stream, b.boot, max(least(b.to_ms, (extract(epoch FROM b.changed) * 1000)::bigint)) OVER (PARTITION BY b.stream, b.line) AS active
  FROM boots b JOIN streams s ON s.id = b.stream AND s.name LIKE '%/\_indicators') b ON b.stream = f.stream AND b.boot = f.boot
WHERE NOT EXISTS (SELECT FROM packs p WHERE p.stream = f.stream AND p.seq = f.seq AND p.boot = f.boot AND p.faults IS NOT NULL)
  AND NOT EXISTS (SELECT FROM findings n WHERE n.stream = f.stream AND n.seq = f.seq AND n.boot = f.boot)
  AND NOT EXISTS (SELECT FROM findings n WHERE n.stream = f.stream AND n.seq = 0 AND n.boot = f.boot)
ORDER BY f.stream, f.kind, f.id, f.period, f.from_ms, b.active DESC NULLS LAST, f.seq DESC;

CREATE FUNCTION day_of(ms bigint) RETURNS date LANGUAGE sql IMMUTABLE AS $$
  SELECT CASE WHEN ms BETWEEN 0 AND 32503679999999 THEN date '1970-01-01' + (ms / 86400000)::int ELSE date '1970-01-01' END $$;

-- The number of readings due between two packs, by the rate of the second pack. At most 400 days are counted, because a clock may have been wrong.
CREATE FUNCTION due_between(end_ms bigint, from_ms bigint, to_ms bigint, due bigint) RETURNS float8 LANGUAGE sql IMMUTABLE AS
  'SELECT least(34560000000, greatest(0, from_ms - end_ms)) * due::float8 / nullif(to_ms - from_ms, 0)';

-- The part of due_between that lies in a range of time: the number of readings due between two packs, after low_ms and before high_ms.
CREATE FUNCTION due_within(end_ms bigint, from_ms bigint, to_ms bigint, due bigint, low_ms bigint, high_ms bigint) RETURNS float8 LANGUAGE sql IMMUTABLE AS
  'SELECT greatest(0, least(from_ms, end_ms + 34560000000, high_ms) - greatest(end_ms, low_ms)) * due::float8 / nullif(to_ms - from_ms, 0)';

-- State of the export to ClickHouse, if a keeper has a ClickHouse: lots are sent in batches. A batch is fixed before it is sent, so
-- that a repeated batch is the same insert.

CREATE TABLE clickhouse (               -- one row if packs are exported; its id is part of the token of every insert
  id uuid NOT NULL DEFAULT gen_random_uuid(),
  since timestamptz NOT NULL DEFAULT now());

CREATE TABLE batches (
  batch bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  made timestamptz NOT NULL DEFAULT now(),
  sent timestamptz);                    -- NULL: ClickHouse has not confirmed it
CREATE INDEX ON batches (batch) WHERE sent IS NULL;

CREATE TABLE changed_packs (            -- packs that were settled, revoked or moved to forks; ClickHouse needs their new state
  number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  stream bigint NOT NULL, seq bigint NOT NULL, boot bigint NOT NULL, from_ms bigint NOT NULL, lot bigint NOT NULL,
  batch bigint,
  back boolean NOT NULL DEFAULT false); -- a finding is no longer true, so ClickHouse may lack the readings of the pack

CREATE FUNCTION note_changed_packs() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF EXISTS (SELECT FROM clickhouse) THEN
    INSERT INTO changed_packs (stream, seq, boot, from_ms, lot) SELECT stream, seq, boot, from_ms, lot FROM before;
  END IF;
  RETURN NULL;
END $$;
CREATE TRIGGER changed AFTER UPDATE ON packs REFERENCING OLD TABLE AS before FOR EACH STATEMENT EXECUTE FUNCTION note_changed_packs();
CREATE TRIGGER moved AFTER DELETE ON packs REFERENCING OLD TABLE AS before FOR EACH STATEMENT EXECUTE FUNCTION note_changed_packs();

-- Boots of which a finding with sequence 0 came or went, so that ClickHouse needs the new state of all their packs. Each batch takes some of these packs into
-- changed_packs, because a boot may have millions of them.
CREATE TABLE changed_boots (
  stream bigint NOT NULL, boot bigint NOT NULL,
  after bigint NOT NULL DEFAULT 0,      -- the packs up to this sequence are in batches already
  back boolean NOT NULL DEFAULT false,  -- as in changed_packs
  PRIMARY KEY (stream, boot));

-- The state of a pack in ClickHouse depends on its findings, too.
CREATE FUNCTION note_found_packs() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF EXISTS (SELECT FROM clickhouse) THEN
    INSERT INTO changed_packs (stream, seq, boot, from_ms, lot, back)
    SELECT DISTINCT p.stream, p.seq, p.boot, p.from_ms, p.lot, TG_OP = 'DELETE' FROM found f JOIN packs p ON p.stream = f.stream AND p.seq = f.seq AND p.boot = f.boot;
    INSERT INTO changed_boots (stream, boot, back)
    SELECT DISTINCT b.stream, b.boot, TG_OP = 'DELETE' FROM found f JOIN boots b ON f.seq = 0 AND b.stream = f.stream AND b.boot = f.boot ORDER BY 1, 2
    ON CONFLICT (stream, boot) DO UPDATE SET after = 0, back = changed_boots.back OR excluded.back;
  END IF;
  RETURN NULL;
END $$;
CREATE TRIGGER made AFTER INSERT ON findings REFERENCING NEW TABLE AS found FOR EACH STATEMENT EXECUTE FUNCTION note_found_packs();
CREATE TRIGGER gone AFTER DELETE ON findings REFERENCING OLD TABLE AS found FOR EACH STATEMENT EXECUTE FUNCTION note_found_packs();

-- The number of packs that ClickHouse does not have yet, and the time when the oldest of them was stored.
CREATE VIEW clickhouse_waiting AS
SELECT coalesce(sum(l.packs), 0)::bigint AS packs, min(l.stored) AS since
FROM lots l
WHERE EXISTS (SELECT FROM clickhouse) AND (l.batch IS NULL OR l.batch IN (SELECT batch FROM batches WHERE sent IS NULL));

-- The retained messages that `keep --latest` has published, one per device.
CREATE TABLE latest (
  stream bigint PRIMARY KEY,
  boot bigint NOT NULL, seq bigint NOT NULL, -- of the newest pack whose values are in the message
  points jsonb NOT NULL,                -- {point: {"v", "t", "u", "q", "pack"}}
  published timestamptz NOT NULL DEFAULT now());
-- All streams. asked is true if the stream was agreed with its gateway, if it is the stream _gateway, or if no streams were agreed with this gateway.
CREATE VIEW agreed_streams AS
SELECT s.id, s.gateway, s.name, split_part(s.name, '/', 3) AS last, (
  NOT EXISTS (SELECT FROM agreed a WHERE a.gateway = s.gateway) OR split_part(s.name, '/', 3) = '_gateway'
  OR EXISTS (SELECT FROM agreed a WHERE a.gateway = s.gateway
    AND split_part(s.name, '/', 3) LIKE replace(replace(replace(a.stream, '_', '\_'), '*', '%'), '?', '_'))) AS asked
FROM streams s;

-- Streams that were agreed by name (not by a pattern) and that no pack or checkpoint names. Only gateways with a stored checkpoint count.
CREATE VIEW unnamed_streams AS
SELECT a.gateway, a.stream FROM agreed a WHERE a.stream !~ '[*?]'
  AND EXISTS (SELECT FROM streams s JOIN checkpoint_heads c ON c.stream = s.id WHERE s.gateway = a.gateway)
  AND NOT EXISTS (SELECT FROM streams s WHERE s.gateway = a.gateway AND split_part(s.name, '/', 3) = a.stream);

-- Estimated number of readings due in missing packs, by UTC day. Missing packs are those in holes, and those since the newest pack of a stream that has been
-- silent for 15 minutes or longer.
-- Only requested streams count, but packs that the gateway declares lost count in all streams. In a hole, the rate is that of the next pack with due readings.
-- At the end of a stream, it is that of the last pack with due readings.
CREATE VIEW missing_days AS
WITH stretches AS (
  SELECT h.stream, l.to_ms AS low, r.from_ms AS high, coalesce(n.rate, l.rate, 0) AS rate
  FROM holes h JOIN agreed_streams s ON s.id = h.stream CROSS JOIN LATERAL unnest(CASE WHEN s.asked THEN h.missing + h.lost ELSE h.lost END) AS part (seqs)
  CROSS JOIN LATERAL (SELECT p.to_ms, p.due::float8 / nullif(p.to_ms - p.from_ms, 0) AS rate FROM packs p
    WHERE p.stream = h.stream AND p.seq = lower(part.seqs) - 1 LIMIT 1) l
  CROSS JOIN LATERAL (SELECT p.from_ms FROM packs p WHERE p.stream = h.stream AND p.seq = upper(part.seqs) LIMIT 1) r
  LEFT JOIN LATERAL (SELECT p.due::float8 / (p.to_ms - p.from_ms) AS rate FROM packs p
    WHERE p.stream = h.stream AND p.seq >= upper(part.seqs) AND p.due > 0 AND p.to_ms > p.from_ms ORDER BY p.seq LIMIT 1) n ON true
  UNION ALL
  SELECT b.stream, b.to_ms, (extract(epoch FROM now()) * 1000)::bigint, n.rate
  FROM (SELECT DISTINCT ON (stream) stream, to_ms, upper(seqs) AS seq FROM boots ORDER BY stream, to_ms DESC) b JOIN agreed_streams s ON s.id = b.stream AND s.asked
  CROSS JOIN LATERAL (SELECT p.due::float8 / (p.to_ms - p.from_ms) AS rate FROM packs p
    WHERE p.stream = b.stream AND p.seq < b.seq AND p.due > 0 AND p.to_ms > p.from_ms ORDER BY p.seq DESC LIMIT 1) n
  WHERE b.to_ms < extract(epoch FROM now() - interval '15 minutes') * 1000
    AND NOT EXISTS (SELECT FROM checkpoint_heads c WHERE c.stream = b.stream AND c.retired)
)
SELECT stream, d.day::date AS day, round(sum((least(high, d.ms + 86400000) - greatest(low, d.ms)) * rate))::bigint AS due
FROM stretches CROSS JOIN LATERAL (SELECT day, extract(epoch FROM day AT TIME ZONE 'UTC')::bigint * 1000 AS ms
  FROM generate_series(day_of(low)::timestamp, day_of(high - 1)::timestamp, interval '1 day') AS day) d
WHERE high > low AND rate > 0 GROUP BY 1, 2;

-- Readings by UTC day. The due readings include those in missing packs.
CREATE VIEW due_days AS
SELECT s.gateway, split_part(s.gateway, '/', 1) AS site, s.name AS stream, day, coalesce(d.due, 0) AS due, coalesce(d.readings, 0) AS readings,
  coalesce(d.gaps, 0) AS gaps, coalesce(d.asleep, 0) AS asleep, coalesce(m.due, 0) AS missing
FROM days d FULL JOIN missing_days m USING (stream, day) JOIN streams s ON s.id = stream
WHERE EXISTS (SELECT FROM pins p WHERE p.gateway = s.gateway);

-- Births of which only the retained copy was received, because the gateway published them before the platform started.
CREATE TABLE birth_copies (hash uuid PRIMARY KEY, stream bigint NOT NULL, body bytea NOT NULL);

-- Further pages of checkpoints that are kept as evidence. Such a page contradicts the stored page of the same checkpoint, or it is not the predecessor that
-- the next checkpoint names, or it has a head that a later checkpoint lowers.
CREATE TABLE checkpoint_twins (gateway text NOT NULL, hash uuid NOT NULL, body bytea NOT NULL, PRIMARY KEY (gateway, hash));

-- The newest checkpoint of each gateway. torn: number of its pages that were not received. Checkpoints younger than five minutes are left out, because
-- a gateway publishes the pages one after the other.
CREATE VIEW torn_checkpoints AS
SELECT c.gateway, c.time_ms, c.pages - (SELECT count(*) FROM checkpoints o WHERE o.gateway = c.gateway AND o.signer = c.signer AND o.counter = c.counter) AS torn
FROM (SELECT DISTINCT ON (gateway) * FROM checkpoints ORDER BY gateway, signer DESC, counter DESC) c
WHERE c.time_ms + 300000 <= extract(epoch FROM now()) * 1000;

-- The keys objects of the other chains of a gateway. It has several chains if a key was lost or its box was replaced, and the keys of each chain are enrolled.
-- The counter of a new chain begins anew, so the counters of two chains cannot be compared. gateways.keys is the keys object with the highest counter.
CREATE TABLE other_keys (
  gateway text NOT NULL,
  first text NOT NULL,                  -- thumbprint of the first key of the chain
  keys bytea NOT NULL,                  -- the newest keys object of the chain, as published
  counter bigint NOT NULL,
  PRIMARY KEY (gateway, first));

-- Packs that a gateway sent again although they were stored and then dropped. Their ack was lost, so the keeper acknowledges each of them once more.
CREATE TABLE acks_due (
  stream bigint NOT NULL, boot bigint NOT NULL, seq bigint NOT NULL,
  hash bytea NOT NULL,                  -- the full SHA-256, because the body is not stored any more
  at timestamptz NOT NULL DEFAULT now(), -- an ack that nobody can send is deleted after some time: perhaps no keeper has a broker; if the gateway sends the pack again, it is due again
  PRIMARY KEY (stream, boot, seq, hash));

-- Months whose partition could not be made, because a query used the packs at that moment. Their packs are in packs_other until the keeper makes the partition.
CREATE TABLE waiting_months (
  month date PRIMARY KEY,
  tried timestamptz);                   -- the last try; NULL: not tried, because the last try of another month was just before

-- Make the partitions of a month for some tables: packs, reading_blocks or both. Their rows in packs_other and reading_blocks_other move to the partitions.
-- Each table itself is locked too, and first: a statement that waited for packs_other alone would not know the new partition, and so would miss the moved packs.
-- All workers wait for these locks. So a try ends if a query uses a table for longer than wait_ms, and no other try follows within five minutes.
-- Returns true if the partitions exist, false if the try was in vain, and NULL if there was no try.
CREATE FUNCTION make_partitions(month date, parents text[], wait_ms int) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
  suffix text := to_char(month, '_YYYY_MM');
  low bigint := extract(epoch FROM date_trunc('month', month::timestamp) AT TIME ZONE 'UTC') * 1000;
  high bigint := extract(epoch FROM (date_trunc('month', month::timestamp) + interval '1 month') AT TIME ZONE 'UTC') * 1000;
  setting text := current_setting('lock_timeout');
  missing text[];
  parent text;
BEGIN
  PERFORM pg_advisory_xact_lock(7235701, 1);
  missing := array(SELECT p FROM unnest(parents) WITH ORDINALITY AS u (p, place) WHERE to_regclass(p || suffix) IS NULL ORDER BY place);
  IF missing = '{}' THEN RETURN true; END IF;
  IF EXISTS (SELECT FROM waiting_months w WHERE w.tried > clock_timestamp() - interval '5 minutes') THEN
    INSERT INTO waiting_months VALUES (make_partitions.month) ON CONFLICT DO NOTHING;
    RETURN NULL;
  END IF;
  BEGIN
    PERFORM set_config('lock_timeout', wait_ms::text, true);
    FOREACH parent IN ARRAY missing LOOP
      EXECUTE format('LOCK TABLE ONLY %I, %I IN ACCESS EXCLUSIVE MODE', parent, parent || '_other');
    END LOOP;
    PERFORM set_config('lock_timeout', setting, true);
  EXCEPTION WHEN lock_not_available OR deadlock_detected THEN -- the locks are released, and the setting is as before
    INSERT INTO waiting_months VALUES (make_partitions.month, clock_timestamp())
      ON CONFLICT ON CONSTRAINT waiting_months_pkey DO UPDATE SET tried = excluded.tried;
    RETURN false;
  END;
  FOREACH parent IN ARRAY missing LOOP
    EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING DEFAULTS INCLUDING STORAGE)', parent || suffix, parent);
    EXECUTE format('WITH moved AS (DELETE FROM %I WHERE from_ms >= %s AND from_ms < %s RETURNING *) INSERT INTO %I SELECT * FROM moved',
      parent || '_other', low, high, parent || suffix);
    EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%s) TO (%s)', parent, parent || suffix, low, high);
  END LOOP;
  IF 'packs' = ANY(parents) THEN DELETE FROM waiting_months w WHERE w.month = make_partitions.month; END IF;
  RETURN true;
END $$;

-- Called by workers before they store the month's first pack. If the partitions cannot be made at once, their packs go to packs_other, and the
-- keeper makes the partitions later. The time of all four locks is less than deadlock_timeout, so that no query is ended that locks the tables in another order,
-- such as one of the view readings. The keeper waits longer, but has only one of the two tables locked at a time.
CREATE FUNCTION make_partition(month date) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  IF to_regclass('packs' || to_char(month, '_YYYY_MM')) IS NULL AND NOT EXISTS (SELECT FROM waiting_months w WHERE w.month = make_partition.month) THEN
    PERFORM make_partitions(month, '{packs,reading_blocks}', 200);
  END IF;
END $$;
