-- The newest pack of a stream whose point table is known. The newest boot is the boot with the latest activity (see latest_news.sql). The highest sequence
-- alone would be wrong, because a history may begin anew at sequence 1. The highest sequence is used only if the newest boot has no such pack, or if
-- there are no boots because no pack was checked yet. The range of the boot keeps PostgreSQL from reading all packs of the stream in the other months.
WITH b AS (
  SELECT boot, lower(seqs) AS low, upper(seqs) - 1 AS high, from_ms, to_ms FROM boots WHERE stream = %(stream)s
  ORDER BY least(to_ms, (extract(epoch FROM changed) * 1000)::bigint) DESC, to_ms DESC LIMIT 1
), own AS MATERIALIZED (
  SELECT p.* FROM b CROSS JOIN LATERAL (
    SELECT n.hash, p.from_ms, t.value, p.to_ms FROM packs p JOIN births n ON n.hash = p.birth JOIN point_tables t ON t.hash = n.points
    WHERE p.stream = %(stream)s AND p.boot = b.boot AND p.seq BETWEEN b.low AND b.high AND p.from_ms BETWEEN b.from_ms AND b.to_ms
    ORDER BY p.seq DESC LIMIT 1) p
)
SELECT hash, from_ms, value, to_ms FROM own
UNION ALL
SELECT * FROM (
  SELECT n.hash, p.from_ms, t.value, p.to_ms FROM packs p JOIN births n ON n.hash = p.birth JOIN point_tables t ON t.hash = n.points
  WHERE p.stream = %(stream)s AND NOT EXISTS (SELECT FROM own) ORDER BY p.seq DESC LIMIT 1) p
