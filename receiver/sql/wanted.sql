-- The missing packs to request: those in holes between packs, and those after the newest pack up to the head of a checkpoint. A request is repeated after
-- 1, 2, 4 ... 24 hours. All requests that begin at the same sequence are counted together, because the end of a range changes while packs arrive. Their
-- number has no bound, and 2 ^ 1024 would be an error.
WITH behind AS (
  SELECT h.stream, int8range((SELECT max(upper(b.seqs)) FROM boots b WHERE b.stream = h.stream), h.seq, '[]') AS seqs
  FROM checkpoint_heads h WHERE NOT h.retired AND h.seq >= (SELECT max(upper(b.seqs)) FROM boots b WHERE b.stream = h.stream)
    AND NOT EXISTS (SELECT FROM implausible i WHERE i.stream = h.stream AND i.seq = h.seq)
    AND h.to_ms < extract(epoch FROM now() - make_interval(mins => %(settled)s)) * 1000
), wanted AS (
  SELECT h.stream, part.seqs FROM holes h CROSS JOIN LATERAL unnest(h.missing) AS part (seqs)
  WHERE (SELECT p.from_ms FROM packs p WHERE p.stream = h.stream AND p.seq = upper(part.seqs) LIMIT 1)
    < extract(epoch FROM now() - make_interval(mins => %(settled)s)) * 1000
  UNION ALL SELECT stream, seqs FROM behind WHERE NOT isempty(seqs)
)
SELECT DISTINCT ON (s.gateway) w.stream, s.name, s.gateway, lower(w.seqs), least(upper(w.seqs) - 1, lower(w.seqs) + %(most)s - 1)
FROM wanted w JOIN agreed_streams s ON s.id = w.stream JOIN gateways g ON g.name = s.gateway
CROSS JOIN LATERAL (SELECT max(r.asked) AS asked, sum(r.times) AS times FROM replays r WHERE r.stream = w.stream AND r.first = lower(w.seqs)) r
WHERE (r.asked IS NULL OR r.asked < now() - interval '1 hour' * least(24, 2 ^ least(5, r.times - 1))) AND s.asked
  AND EXISTS (SELECT FROM pins p WHERE p.gateway = s.gateway)
ORDER BY s.gateway, lower(w.seqs) LIMIT %(limit)s
