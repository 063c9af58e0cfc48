-- Ticks of which all parts are stored. rest is true if some of the parts were settled when they arrived, because they break a rule.
WITH waiting AS (
  SELECT p.stream, p.boot, p.seq - p.part AS before, p.from_ms, p.parts, count(*) AS n FROM packs p JOIN births b ON b.hash = p.birth
  JOIN streams s ON s.id = p.stream JOIN gateways g ON g.name = s.gateway
  WHERE p.due IS NULL AND p.part IS NOT NULL GROUP BY 1, 2, 3, 4, 5)
SELECT stream, boot, before, n < parts AS rest FROM waiting w
WHERE n = parts OR n + (SELECT count(*) FROM packs o WHERE o.stream = w.stream AND o.seq > w.before AND o.seq <= w.before + w.parts AND o.boot = w.boot
  AND o.from_ms = w.from_ms AND o.parts = w.parts AND o.seq - o.part = w.before AND o.due IS NOT NULL) = parts LIMIT %s
