WITH s AS (SELECT n.id, n.gateway, n.last AS name, n.asked
  FROM agreed_streams n WHERE %(like)s::text IS NULL OR n.gateway = %(like)s::text OR starts_with(n.gateway, %(like)s::text || '/')),
 b AS (SELECT s.gateway, max(least(b.to_ms, (extract(epoch FROM b.changed) * 1000)::bigint)) AS newest FROM boots b JOIN s ON s.id = b.stream GROUP BY 1),
 d AS (SELECT s.gateway, sum(d.packs) AS packs, sum(d.readings) AS readings, sum(d.due) AS due, sum(d.gaps) AS gaps, sum(d.asleep) AS asleep
   FROM days d JOIN s ON s.id = d.stream WHERE d.day >= %(since)s::date GROUP BY 1),
 hs AS MATERIALIZED (SELECT h.stream, s.gateway, s.asked, h.missing, h.lost FROM holes h JOIN s ON s.id = h.stream),
 h AS (SELECT h.gateway, sum((SELECT sum(upper(r) - lower(r)) FROM unnest(h.missing) r WHERE h.asked AND upper(r) - lower(r) <= most_packs())) AS missing,
   sum((SELECT sum(upper(r) - lower(r)) FROM unnest(h.lost) r WHERE upper(r) - lower(r) <= most_packs())) AS lost FROM hs h GROUP BY 1),
 -- readings due in missing packs since the day, estimated from the rate of the pack after the hole
 m AS (SELECT h.gateway, sum(due_within(l.to_ms, r.from_ms, r.to_ms, r.due, (%(since)s::date - date '1970-01-01') * 86400000::bigint, r.from_ms)) AS due
   FROM hs h CROSS JOIN LATERAL unnest(CASE WHEN h.asked THEN h.missing + h.lost ELSE h.lost END) AS part (seqs)
   CROSS JOIN LATERAL (SELECT p.to_ms FROM packs p WHERE p.stream = h.stream AND p.seq = lower(part.seqs) - 1 LIMIT 1) l
   CROSS JOIN LATERAL (SELECT p.from_ms, p.to_ms, p.due FROM packs p WHERE p.stream = h.stream AND p.seq = upper(part.seqs) AND p.faults IS NULL LIMIT 1) r
   WHERE upper(part.seqs) - lower(part.seqs) <= most_packs() GROUP BY 1),
 n AS (SELECT s.gateway, min(b.from_ms) AS begun FROM boots b JOIN s ON s.id = b.stream GROUP BY 1),
 -- As in the verifier, a stream without any pack counts only under three conditions. It is in the newest checkpoint. It is not retired, or streams
 -- were agreed with the gateway. Its head is later than the beginning of the gateway's oldest stored pack.
 w AS (SELECT s.gateway, sum(greatest(0, c.seq - m.seq)) AS withheld FROM checkpoint_heads c JOIN s ON s.id = c.stream LEFT JOIN n ON n.gateway = s.gateway
   CROSS JOIN LATERAL (SELECT coalesce(max(upper(b.seqs)) - 1, 0) AS seq FROM boots b WHERE b.stream = c.stream) m
    WHERE c.seq - m.seq <= most_packs() AND s.asked AND (m.seq > 0 OR c.to_ms > coalesce(n.begun, 0) AND c.counter >= (SELECT max(k.counter) FROM checkpoints k WHERE k.gateway = s.gateway)
      AND (NOT c.retired OR EXISTS (SELECT FROM agreed a WHERE a.gateway = s.gateway))) GROUP BY 1),
 rs AS (SELECT q.gateway, sum(q.n - 1) AS restarts FROM (SELECT s.gateway, b.stream, count(DISTINCT b.line) AS n FROM boots b JOIN s ON s.id = b.stream
   WHERE b.line <> -1 AND s.asked GROUP BY 1, 2) q GROUP BY 1),
 tn AS (SELECT t.gateway, t.torn FROM torn_checkpoints t),
 o AS (SELECT s.gateway, count(*) AS packs FROM packs p JOIN s ON s.id = p.stream JOIN lots l ON l.lot = p.lot
   WHERE p.due IS NULL AND p.faults IS NULL AND l.stored < now() - interval '1 minute' GROUP BY 1),
 x AS (SELECT s.gateway, array_agg(s.name ORDER BY s.name) AS names FROM s WHERE NOT s.asked AND EXISTS (SELECT FROM boots b WHERE b.stream = s.id) GROUP BY 1),
 y AS (SELECT gateway, array_agg(stream ORDER BY stream) AS names FROM unnamed_streams GROUP BY 1),
 f AS (SELECT s.gateway, jsonb_object_agg(code, n) AS codes FROM
   (SELECT s.gateway, f.code, count(*) AS n FROM all_findings f JOIN s ON s.id = f.stream GROUP BY 1, 2) s GROUP BY 1),
 g AS (SELECT s.gateway, jsonb_object_agg(reason, n) AS reasons FROM
   (SELECT s.gateway, g.reason, sum(g.readings) AS n FROM gap_days g JOIN s ON s.id = g.stream WHERE g.day >= %(since)s::date GROUP BY 1, 2) s GROUP BY 1),
 u AS (SELECT gateway, sum(times) AS times, jsonb_object_agg(code, times) AS codes, (array_agg(why ORDER BY at DESC))[1] AS why, max(at) AS at FROM
   (SELECT gateway, code, sum(times) AS times, (array_agg(why ORDER BY at DESC))[1] AS why, max(at) AS at FROM refusals WHERE day >= %(since)s::date GROUP BY 1, 2) u GROUP BY 1)
SELECT p.name, b.newest, coalesce(d.packs, 0), coalesce(d.readings, 0), coalesce(d.due, 0), coalesce(d.gaps, 0), coalesce(d.asleep, 0),
  coalesce(h.missing, 0), coalesce(h.lost, 0), coalesce(w.withheld, 0), f.codes, g.reasons, coalesce(u.times, 0), k.online, k.version, coalesce(round(m.due), 0),
  u.codes, u.why, u.at, coalesce(x.names, '{}'), coalesce(y.names, '{}'), coalesce(o.packs, 0),
  coalesce(rs.restarts, 0), greatest(0, coalesce(tn.torn, 0))
FROM (SELECT DISTINCT gateway AS name FROM pins WHERE %(like)s::text IS NULL OR gateway = %(like)s::text OR starts_with(gateway, %(like)s::text || '/')) p
LEFT JOIN statuses k ON k.gateway = p.name LEFT JOIN b ON b.gateway = p.name LEFT JOIN d ON d.gateway = p.name LEFT JOIN h ON h.gateway = p.name
LEFT JOIN w ON w.gateway = p.name LEFT JOIN m ON m.gateway = p.name LEFT JOIN f ON f.gateway = p.name LEFT JOIN g ON g.gateway = p.name LEFT JOIN u ON u.gateway = p.name
LEFT JOIN x ON x.gateway = p.name LEFT JOIN y ON y.gateway = p.name LEFT JOIN o ON o.gateway = p.name
LEFT JOIN rs ON rs.gateway = p.name LEFT JOIN tn ON tn.gateway = p.name
ORDER BY p.name
