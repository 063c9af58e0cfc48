SELECT b.stream, s.name, s.gateway, g.ack_lists, b.boot, lower(part.seqs), upper(part.seqs) - 1, p.body
FROM boots b CROSS JOIN LATERAL unnest(b.seqs) AS part (seqs) JOIN streams s ON s.id = b.stream
JOIN gateways g ON g.name = s.gateway
LEFT JOIN acked a ON a.stream = b.stream AND a.boot = b.boot AND a.first = lower(part.seqs)
JOIN LATERAL (SELECT body FROM packs p WHERE p.stream = b.stream AND p.seq = upper(part.seqs) - 1 AND p.boot = b.boot LIMIT 1) p ON true
WHERE b.changed > now() - interval '2 days' AND a.last IS DISTINCT FROM upper(part.seqs) - 1
ORDER BY s.gateway, b.stream LIMIT %s
