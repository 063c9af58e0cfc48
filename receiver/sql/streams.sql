-- The state of each stream of a gateway, in the same columns as fleet.sql where possible.
SELECT s.name, s.id, b.newest, coalesce(d.packs, 0), coalesce(d.readings, 0), coalesce(d.due, 0), coalesce(d.gaps, 0), coalesce(d.asleep, 0),
  coalesce(h.missing, 0), coalesce(h.lost, 0), coalesce(w.withheld, 0), coalesce(o.packs, 0), coalesce(rs.restarts, 0), f.codes, g.reasons, s.asked
FROM agreed_streams s
LEFT JOIN LATERAL (SELECT max(least(b.to_ms, (extract(epoch FROM b.changed) * 1000)::bigint)) AS newest FROM boots b WHERE b.stream = s.id) b ON true
LEFT JOIN LATERAL (SELECT sum(packs) AS packs, sum(readings) AS readings, sum(due) AS due, sum(gaps) AS gaps, sum(asleep) AS asleep
  FROM days d WHERE d.stream = s.id AND d.day >= %(since)s::date) d ON true
LEFT JOIN LATERAL (SELECT sum((SELECT sum(upper(r) - lower(r)) FROM unnest(h.missing) r WHERE s.asked AND upper(r) - lower(r) <= most_packs())) AS missing,
  sum((SELECT sum(upper(r) - lower(r)) FROM unnest(h.lost) r WHERE upper(r) - lower(r) <= most_packs())) AS lost FROM holes h WHERE h.stream = s.id) h ON true
LEFT JOIN LATERAL (SELECT greatest(0, c.seq - m.seq) AS withheld FROM checkpoint_heads c
  CROSS JOIN LATERAL (SELECT coalesce(max(upper(b.seqs)) - 1, 0) AS seq FROM boots b WHERE b.stream = s.id) m
  WHERE c.stream = s.id AND NOT EXISTS (SELECT FROM implausible i WHERE i.stream = s.id AND i.seq = c.seq) AND s.asked
    AND (m.seq > 0 OR (NOT c.retired OR EXISTS (SELECT FROM agreed a WHERE a.gateway = s.gateway)) -- as in fleet.sql
      AND c.counter >= (SELECT max(k.counter) FROM checkpoints k WHERE k.gateway = s.gateway)
      AND c.to_ms > coalesce((SELECT min(b.from_ms) FROM boots b JOIN streams o ON o.id = b.stream WHERE o.gateway = s.gateway), 0))) w ON true
LEFT JOIN LATERAL (SELECT greatest(0, count(DISTINCT b.line) - 1) AS restarts FROM boots b WHERE b.stream = s.id AND b.line <> -1 AND s.asked) rs ON true
LEFT JOIN LATERAL (SELECT jsonb_object_agg(code, n) AS codes FROM (SELECT code, count(*) AS n FROM all_findings f WHERE f.stream = s.id GROUP BY 1) f) f ON true
LEFT JOIN LATERAL (SELECT jsonb_object_agg(reason, n) AS reasons FROM (SELECT reason, sum(readings) AS n FROM gap_days g
  WHERE g.stream = s.id AND g.day >= %(since)s::date GROUP BY 1) g) g ON true
LEFT JOIN LATERAL (SELECT count(*) AS packs FROM packs p JOIN lots l ON l.lot = p.lot
  WHERE p.stream = s.id AND p.due IS NULL AND p.faults IS NULL AND l.stored < now() - interval '1 minute') o ON true
WHERE s.gateway = %(gateway)s ORDER BY s.name
