-- The packs that gateways declare lost, in streams that were not agreed: in ClickHouse, no other packs of these streams count as missing.
SELECT s.name, lower(part.seqs), upper(part.seqs) - 1
FROM (SELECT stream, range_agg(int8range(first, last, '[]')) AS seqs FROM losses GROUP BY stream) l
JOIN agreed_streams s ON s.id = l.stream AND NOT s.asked CROSS JOIN LATERAL unnest(l.seqs) AS part (seqs)
WHERE EXISTS (SELECT FROM pins p WHERE p.gateway = s.gateway)
