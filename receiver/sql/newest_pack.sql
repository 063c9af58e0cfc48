-- The newest pack of a stream whose point table is known. The newest boot is the boot with the latest activity (see latest_news.sql). The highest sequence alone
-- would be wrong, because a history may begin anew at sequence 1. If no pack was checked yet, there are no boots, and the highest sequence has to do.
WITH b AS (
  SELECT boot, upper(seqs) - 1 AS seq FROM boots WHERE stream = %(stream)s
  ORDER BY least(to_ms, (extract(epoch FROM changed) * 1000)::bigint) DESC, to_ms DESC LIMIT 1
)
SELECT b.hash, p.from_ms, t.value, p.to_ms FROM packs p JOIN births b ON b.hash = p.birth JOIN point_tables t ON t.hash = b.points
WHERE p.stream = %(stream)s AND p.seq <= coalesce((SELECT seq FROM b), 9223372036854775807) AND p.boot = coalesce((SELECT boot FROM b), p.boot)
ORDER BY p.seq DESC LIMIT 1
