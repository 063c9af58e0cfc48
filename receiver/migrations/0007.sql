-- The view of 0004.sql without some more readings: those of boots that have a finding. A finding with sequence 0 (a rollback or a clone) concerns the whole boot.
-- The two conditions are separate, because PostgreSQL can use an index or a hash for each of them.
CREATE OR REPLACE VIEW readings AS
SELECT s.gateway, s.name AS stream, r.point, to_timestamp((b.from_ms + r.after_ms) / 1000.0) AS at, r.v AS value, l.units[r.place] AS unit,
  b.other -> r.place::text ->> 'q' AS quality, b.other -> r.place::text ->> 'x' AS exact, b.other -> r.place::text ->> 'vs' AS text, b.seq
FROM reading_blocks b JOIN streams s ON s.id = b.stream JOIN layouts l ON l.hash = b.layout
CROSS JOIN LATERAL unnest(l.points, b.after_ms, b.v) WITH ORDINALITY AS r (point, after_ms, v, place)
WHERE EXISTS (SELECT FROM packs p WHERE p.stream = b.stream AND p.seq = b.seq AND p.boot = b.boot AND p.from_ms = b.from_ms AND p.faults IS NULL)
  AND NOT EXISTS (SELECT FROM findings f WHERE f.stream = b.stream AND f.seq = b.seq AND f.boot = b.boot)
  AND NOT EXISTS (SELECT FROM findings f WHERE f.stream = b.stream AND f.seq = 0 AND f.boot = b.boot);

-- The state of a pack in ClickHouse depends on its findings, too.
ALTER TABLE changed_packs ADD back boolean NOT NULL DEFAULT false; -- a finding is no longer true, so ClickHouse may lack the readings of the pack

CREATE FUNCTION note_found_packs() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF EXISTS (SELECT FROM clickhouse) THEN
    INSERT INTO changed_packs (stream, seq, boot, from_ms, lot, back)
    SELECT p.stream, p.seq, p.boot, p.from_ms, p.lot, TG_OP = 'DELETE' FROM found f JOIN packs p ON p.stream = f.stream AND p.seq = f.seq AND p.boot = f.boot
    UNION
    SELECT p.stream, p.seq, p.boot, p.from_ms, p.lot, TG_OP = 'DELETE' FROM found f JOIN boots b ON f.seq = 0 AND b.stream = f.stream AND b.boot = f.boot
    JOIN packs p ON p.stream = b.stream AND p.boot = b.boot AND p.seq BETWEEN lower(b.seqs) AND upper(b.seqs) - 1;
  END IF;
  RETURN NULL;
END $$;
CREATE TRIGGER made AFTER INSERT ON findings REFERENCING NEW TABLE AS found FOR EACH STATEMENT EXECUTE FUNCTION note_found_packs();
CREATE TRIGGER gone AFTER DELETE ON findings REFERENCING OLD TABLE AS found FOR EACH STATEMENT EXECUTE FUNCTION note_found_packs();
-- the packs that have findings already
INSERT INTO changed_packs (stream, seq, boot, from_ms, lot)
SELECT p.stream, p.seq, p.boot, p.from_ms, p.lot FROM findings f JOIN packs p ON p.stream = f.stream AND p.seq = f.seq AND p.boot = f.boot WHERE EXISTS (SELECT FROM clickhouse)
UNION
SELECT p.stream, p.seq, p.boot, p.from_ms, p.lot FROM findings f JOIN boots b ON f.seq = 0 AND b.stream = f.stream AND b.boot = f.boot
JOIN packs p ON p.stream = b.stream AND p.boot = b.boot AND p.seq BETWEEN lower(b.seqs) AND upper(b.seqs) - 1 WHERE EXISTS (SELECT FROM clickhouse);

-- The view of 0003.sql without some figures: those in packs that have a fault or a finding. The packs themselves may have been dropped since.
-- The newest figure is that of the history with the latest activity (see latest_news.sql), and in it that with the highest sequence, because a new history begins
-- at sequence 1 again.
CREATE INDEX ON packs (stream, seq, boot) WHERE faults IS NOT NULL;
CREATE OR REPLACE VIEW latest_figures AS
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

-- The part of due_between (0003.sql) that lies in a range of time: the number of readings due between two packs, after low_ms and before high_ms.
CREATE FUNCTION due_within(end_ms bigint, from_ms bigint, to_ms bigint, due bigint, low_ms bigint, high_ms bigint) RETURNS float8 LANGUAGE sql IMMUTABLE AS
  'SELECT greatest(0, least(from_ms, end_ms + 34560000000, high_ms) - greatest(end_ms, low_ms)) * due::float8 / nullif(to_ms - from_ms, 0)';
