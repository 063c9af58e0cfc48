-- Three numbers by gateway and UTC day: received readings, due readings (those in missing packs included), and due readings in stored packs. Readings that
-- are due while a device sleeps do not count.
-- The parameter streams is an array of ids; NULL: all streams.
WITH here AS (
  SELECT s.gateway, d.day, sum(d.due - d.asleep) AS due, sum(d.due - d.gaps) AS readings FROM days d JOIN streams s ON s.id = d.stream
  WHERE d.day >= %(since)s::date AND (%(streams)s::bigint[] IS NULL OR d.stream = ANY(%(streams)s)) GROUP BY 1, 2
), gone AS (
  SELECT s.gateway, day_of(n.day * 86400000) AS day, sum(due_within(l.to_ms, r.from_ms, r.to_ms, r.due, n.day * 86400000, (n.day + 1) * 86400000)) AS due
  FROM holes h JOIN agreed_streams s ON s.id = h.stream CROSS JOIN LATERAL unnest(CASE WHEN s.asked THEN h.missing + h.lost ELSE h.lost END) AS part (seqs)
  CROSS JOIN LATERAL (SELECT p.to_ms FROM packs p WHERE p.stream = h.stream AND p.seq = lower(part.seqs) - 1 LIMIT 1) l
  CROSS JOIN LATERAL (SELECT p.from_ms, p.to_ms, p.due FROM packs p WHERE p.stream = h.stream AND p.seq = upper(part.seqs) AND p.faults IS NULL LIMIT 1) r
  -- the days of the hole, at most 400 (due_within) and not after the year 2999 (day_of)
  CROSS JOIN LATERAL generate_series(greatest(l.to_ms / 86400000, %(since)s::date - date '1970-01-01'),
    (least(r.from_ms, l.to_ms + 34560000000, 32503680000000) - 1) / 86400000) AS n (day)
  WHERE upper(part.seqs) - lower(part.seqs) <= most_packs()
    AND (%(streams)s::bigint[] IS NULL OR h.stream = ANY(%(streams)s)) GROUP BY 1, 2
)
SELECT gateway, day, coalesce(h.readings, 0)::float8, coalesce(h.due, 0)::float8 + coalesce(g.due, 0)::float8,
  coalesce(h.due, 0)::float8 FROM here h FULL JOIN gone g USING (gateway, day)
