-- What goes to ClickHouse, where a keeper is told one: lots in batches. A batch is fixed before it is sent, so that sending it again is the same insert.

CREATE TABLE clickhouse (               -- one row where a ClickHouse follows; the id is part of every insert's token
  id uuid NOT NULL DEFAULT gen_random_uuid(),
  since timestamptz NOT NULL DEFAULT now());

CREATE TABLE batches (
  batch bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  made timestamptz NOT NULL DEFAULT now(),
  sent timestamptz);                    -- NULL: ClickHouse has not confirmed it
CREATE INDEX ON batches (batch) WHERE sent IS NULL;

ALTER TABLE lots ADD batch bigint;      -- NULL: in no batch yet
CREATE INDEX ON lots (lot) WHERE batch IS NULL;
CREATE INDEX ON lots (batch);

CREATE TABLE changed_packs (            -- settled, revoked or moved to the forks; ClickHouse has to hear of it
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

-- Packs that ClickHouse does not have, and since when the oldest of them waits.
CREATE VIEW clickhouse_waiting AS
SELECT coalesce(sum(l.packs), 0)::bigint AS packs, min(l.stored) AS since
FROM lots l
WHERE EXISTS (SELECT FROM clickhouse) AND (l.batch IS NULL OR l.batch IN (SELECT batch FROM batches WHERE sent IS NULL));

-- What `keep --latest` has published, one retained message a device.
CREATE TABLE latest (
  stream bigint PRIMARY KEY,
  boot bigint NOT NULL, seq bigint NOT NULL, -- of the newest pack in it
  points jsonb NOT NULL,                -- {point: {"v", "t", "u", "q", "pack"}}
  published timestamptz NOT NULL DEFAULT now());
CREATE INDEX ON findings (found);

-- All streams, and whether they were asked for: what was agreed with a gateway is, and its own stream; where nothing was agreed, all of them.
CREATE VIEW agreed_streams AS
SELECT s.id, s.gateway, s.name, split_part(s.name, '/', 3) AS last, (
  NOT EXISTS (SELECT FROM agreed a WHERE a.gateway = s.gateway) OR split_part(s.name, '/', 3) = '_gateway'
  OR EXISTS (SELECT FROM agreed a WHERE a.gateway = s.gateway
    AND split_part(s.name, '/', 3) LIKE replace(replace(replace(a.stream, '_', '\_'), '*', '%'), '?', '_'))) AS asked
FROM streams s;

-- Agreed by name, and named by no pack and no checkpoint of a gateway that made one.
CREATE VIEW unnamed_streams AS
SELECT a.gateway, a.stream FROM agreed a WHERE a.stream !~ '[*?]'
  AND EXISTS (SELECT FROM streams s JOIN checkpoint_heads c ON c.stream = s.id WHERE s.gateway = a.gateway)
  AND NOT EXISTS (SELECT FROM streams s WHERE s.gateway = a.gateway AND split_part(s.name, '/', 3) = a.stream);

-- What was due in packs that are not here and were asked for, by UTC day: in holes, and since the newest pack of a device that went silent 15 minutes ago or earlier.
-- At the rate of the next pack with readings, at the end of the last one.
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

-- Completeness with what never came: readings of all that was due and not asleep.
CREATE VIEW due_days AS
SELECT s.gateway, split_part(s.gateway, '/', 1) AS site, s.name AS stream, day, coalesce(d.due, 0) AS due, coalesce(d.readings, 0) AS readings,
  coalesce(d.gaps, 0) AS gaps, coalesce(d.asleep, 0) AS asleep, coalesce(m.due, 0) AS missing
FROM days d FULL JOIN missing_days m USING (stream, day) JOIN streams s ON s.id = stream
WHERE EXISTS (SELECT FROM pins p WHERE p.gateway = s.gateway);

-- As before, and how often each was signed.
CREATE OR REPLACE VIEW latest_figures AS
SELECT DISTINCT ON (f.stream, f.kind, f.id, f.period, f.from_ms) s.gateway, split_part(s.gateway, '/', 1) AS site, f.kind, f.id, f.period, f.label,
  to_timestamp(f.from_ms / 1000.0) AS "from", to_timestamp(f.to_ms / 1000.0) AS "to", f.v, f.u, f.completeness, f.verdict, f.official, f.seq, f.result,
  count(*) OVER (PARTITION BY f.stream, f.kind, f.id, f.period, f.from_ms) AS versions
FROM figures f JOIN streams s ON s.id = f.stream ORDER BY f.stream, f.kind, f.id, f.period, f.from_ms, f.seq DESC;
