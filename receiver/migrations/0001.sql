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
  checked timestamptz);
CREATE INDEX ON lots (lot) WHERE checked IS NULL;

CREATE TABLE boots (                    -- the stored sequences of each start of the agent; this is all the state that the check of chains needs
  stream bigint NOT NULL, boot bigint NOT NULL,
  prev_boot bigint,                     -- the previous boot according to the first pack of this boot; NULL: none, or that pack is not stored
  begun boolean NOT NULL,               -- true: the first pack of this boot is stored
  line bigint NOT NULL,                 -- the boot that began the history to which this boot belongs; -1: not known
  seqs int8multirange NOT NULL,
  from_ms bigint NOT NULL, to_ms bigint NOT NULL,
  changed timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (stream, boot)) WITH (fillfactor = 70);
CREATE INDEX ON boots (changed);

CREATE TABLE findings (                 -- contradictions and broken rules, by pack; they depend only on which packs are stored
  stream bigint NOT NULL, seq bigint NOT NULL, boot bigint NOT NULL, code text NOT NULL,
  found timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (stream, seq, boot, code));

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
  PRIMARY KEY (topic, hash));

-- The sequences that are missing between stored packs. They are in the column lost if the gateway itself declares them lost, else in the column missing.
CREATE VIEW holes AS
WITH lines AS (SELECT stream, line, range_agg(seqs) AS seqs FROM (SELECT stream, line, unnest(seqs) AS seqs FROM boots) b GROUP BY 1, 2),
  gone AS (SELECT stream, line, int8multirange(range_merge(seqs)) - seqs AS seqs FROM lines)
SELECT g.stream, s.name, g.line, g.seqs - coalesce(l.seqs, '{}') AS missing, g.seqs * coalesce(l.seqs, '{}') AS lost
FROM gone g JOIN streams s ON s.id = g.stream
LEFT JOIN LATERAL (SELECT range_agg(int8range(first, last, '[]')) AS seqs FROM losses l WHERE l.stream = g.stream) l ON true
WHERE NOT isempty(g.seqs);

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
    AND (SELECT count(DISTINCT b.line) = 1 AND min(b.from_ms) < h.to_ms FROM boots b WHERE b.stream = h.stream);

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

-- Every verified reading. quality is NULL if the quality is good. exact is the signed decimal; it is NULL if the double is equal to it.
CREATE VIEW readings AS
SELECT s.gateway, s.name AS stream, r.point, to_timestamp((b.from_ms + r.after_ms) / 1000.0) AS at, r.v AS value, l.units[r.place] AS unit,
  b.other -> r.place::text ->> 'q' AS quality, b.other -> r.place::text ->> 'x' AS exact, b.other -> r.place::text ->> 'vs' AS text, b.seq
FROM reading_blocks b JOIN streams s ON s.id = b.stream JOIN layouts l ON l.hash = b.layout
CROSS JOIN LATERAL unnest(l.points, b.after_ms, b.v) WITH ORDINALITY AS r (point, after_ms, v, place)
WHERE EXISTS (SELECT FROM packs p WHERE p.stream = b.stream AND p.seq = b.seq AND p.boot = b.boot AND p.from_ms = b.from_ms AND p.faults IS NULL);

-- Completeness by UTC day, as regulators require it. share is the number of received readings divided by that of due readings. Readings
-- that are due while a device sleeps do not count.
CREATE VIEW completeness AS
SELECT s.gateway, s.name AS stream, d.day, d.packs, d.due, d.readings, d.gaps, d.asleep,
  CASE WHEN d.due > d.asleep THEN round((d.due - d.gaps)::numeric / (d.due - d.asleep), 6) END AS share
FROM days d JOIN streams s ON s.id = d.stream;

-- The newest signed result for each period. Earlier results, which it corrects, are only in the table figures.
CREATE VIEW latest_figures AS
SELECT DISTINCT ON (f.stream, f.kind, f.id, f.period, f.from_ms) s.gateway, split_part(s.gateway, '/', 1) AS site, f.kind, f.id, f.period, f.label,
  to_timestamp(f.from_ms / 1000.0) AS "from", to_timestamp(f.to_ms / 1000.0) AS "to", f.v, f.u, f.completeness, f.verdict, f.official, f.seq, f.result
FROM figures f JOIN streams s ON s.id = f.stream ORDER BY f.stream, f.kind, f.id, f.period, f.from_ms, f.seq DESC;

CREATE FUNCTION day_of(ms bigint) RETURNS date LANGUAGE sql IMMUTABLE AS $$
  SELECT CASE WHEN ms BETWEEN 0 AND 32503679999999 THEN date '1970-01-01' + (ms / 86400000)::int ELSE date '1970-01-01' END $$;

-- Make the partition of a month, before the month's first pack is stored. Packs of this month that are in packs_other move to the partition.
CREATE FUNCTION make_partition(month date) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  name text := 'packs_' || to_char(month, 'YYYY_MM');
  low bigint := extract(epoch FROM date_trunc('month', month::timestamp) AT TIME ZONE 'UTC') * 1000;
  high bigint := extract(epoch FROM (date_trunc('month', month::timestamp) + interval '1 month') AT TIME ZONE 'UTC') * 1000;
BEGIN
  PERFORM pg_advisory_xact_lock(7235701, 1);
  IF to_regclass(name) IS NOT NULL THEN RETURN; END IF;
  EXECUTE format('CREATE TABLE %I (LIKE packs INCLUDING DEFAULTS INCLUDING STORAGE)', name);
  EXECUTE format('WITH moved AS (DELETE FROM packs_other WHERE from_ms >= %s AND from_ms < %s RETURNING *) INSERT INTO %I SELECT * FROM moved', low, high, name);
  EXECUTE format('ALTER TABLE packs ATTACH PARTITION %I FOR VALUES FROM (%s) TO (%s)', name, low, high);
  name := 'reading_blocks_' || to_char(month, 'YYYY_MM');
  EXECUTE format('CREATE TABLE %I (LIKE reading_blocks INCLUDING DEFAULTS)', name);
  EXECUTE format('WITH moved AS (DELETE FROM reading_blocks_other WHERE from_ms >= %s AND from_ms < %s RETURNING *) INSERT INTO %I SELECT * FROM moved', low, high, name);
  EXECUTE format('ALTER TABLE reading_blocks ATTACH PARTITION %I FOR VALUES FROM (%s) TO (%s)', name, low, high);
END $$;
