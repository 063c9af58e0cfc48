-- Devices that have a newer pack than the published one. The current boot of a stream is the boot with the latest activity. The time of a boot's activity is
-- the earlier of two times: the end of its newest pack, and the time at which this pack was stored. So a gateway's wrong clock cannot put a boot ahead.
WITH b AS (
  SELECT DISTINCT ON (stream) stream, boot, upper(seqs) - 1 AS seq FROM boots
  WHERE %(all)s OR stream IN (SELECT stream FROM boots WHERE changed > now() - interval '10 minutes')
  ORDER BY stream, least(to_ms, (extract(epoch FROM changed) * 1000)::bigint) DESC
)
SELECT b.stream, s.name, b.boot, CASE WHEN l.boot = b.boot THEN l.seq ELSE 0 END, b.seq, l.points
FROM b JOIN streams s ON s.id = b.stream LEFT JOIN latest l ON l.stream = b.stream
WHERE (l.stream IS NULL OR l.boot <> b.boot OR l.seq < b.seq) AND coalesce(l.published <= now() - make_interval(secs => %(every)s), true)
  AND s.name !~ '/_[^/]*$' AND EXISTS (SELECT FROM pins WHERE gateway = s.gateway)
ORDER BY l.published NULLS FIRST LIMIT %(most)s
