SELECT p.stream, p.boot, p.seq - p.part FROM packs p JOIN births b ON b.hash = p.birth
JOIN streams s ON s.id = p.stream JOIN gateways g ON g.name = s.gateway
WHERE p.due IS NULL AND p.part IS NOT NULL GROUP BY p.stream, p.boot, p.seq - p.part, p.from_ms, p.parts
HAVING count(*) = p.parts LIMIT %s
