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

ALTER TABLE lots ADD batch bigint;      -- NULL: the lot is in no batch yet
CREATE INDEX ON lots (lot) WHERE batch IS NULL;
CREATE INDEX ON lots (batch);

CREATE TABLE changed_packs (            -- packs that were settled, revoked or moved to forks; ClickHouse needs their new state
  number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  stream bigint NOT NULL, seq bigint NOT NULL, boot bigint NOT NULL, from_ms bigint NOT NULL, lot bigint NOT NULL,
  batch bigint);

CREATE FUNCTION note_changed_packs() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF EXISTS (SELECT FROM clickhouse) THEN
    INSERT INTO changed_packs (stream, seq, boot, from_ms, lot) SELECT stream, seq, boot, from_ms, lot FROM before;
  END IF;
  RETURN NULL;
END $$;
CREATE TRIGGER changed AFTER UPDATE ON packs REFERENCING OLD TABLE AS before FOR EACH STATEMENT EXECUTE FUNCTION note_changed_packs();
CREATE TRIGGER moved AFTER DELETE ON packs REFERENCING OLD TABLE AS before FOR EACH STATEMENT EXECUTE FUNCTION note_changed_packs();

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
CREATE INDEX ON findings (found);

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

-- The view of 0001.sql with one more column: the number of results that were signed for the period.
CREATE OR REPLACE VIEW latest_figures AS
SELECT DISTINCT ON (f.stream, f.kind, f.id, f.period, f.from_ms) s.gateway, split_part(s.gateway, '/', 1) AS site, f.kind, f.id, f.period, f.label,
  to_timestamp(f.from_ms / 1000.0) AS "from", to_timestamp(f.to_ms / 1000.0) AS "to", f.v, f.u, f.completeness, f.verdict, f.official, f.seq, f.result,
  count(*) OVER (PARTITION BY f.stream, f.kind, f.id, f.period, f.from_ms) AS versions
FROM figures f JOIN streams s ON s.id = f.stream ORDER BY f.stream, f.kind, f.id, f.period, f.from_ms, f.seq DESC;
