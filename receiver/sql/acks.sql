SELECT b.stream, s.name, s.gateway, coalesce(g.ack_lists, false), b.boot, lower(part.seqs), upper(part.seqs) - 1, p.body, p.hash
FROM boots b CROSS JOIN LATERAL unnest(b.seqs) AS part (seqs) JOIN streams s ON s.id = b.stream
LEFT JOIN statuses g ON g.gateway = s.gateway
LEFT JOIN acked a ON a.stream = b.stream AND a.boot = b.boot AND a.first = lower(part.seqs)
JOIN LATERAL (SELECT body, hash FROM packs p WHERE p.stream = b.stream AND p.seq = upper(part.seqs) - 1 AND p.boot = b.boot LIMIT 1) p ON true
WHERE (b.changed > now() - make_interval(days => %(days)s) OR b.again > now() - make_interval(days => %(days)s))
  AND a.last IS DISTINCT FROM upper(part.seqs) - 1
ORDER BY s.gateway, b.stream LIMIT %(most)s
