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
