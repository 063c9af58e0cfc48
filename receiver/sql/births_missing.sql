SELECT DISTINCT ON (p.stream) p.stream, s.name, s.gateway FROM packs p JOIN streams s ON s.id = p.stream
WHERE p.due IS NULL AND NOT EXISTS (SELECT FROM births b WHERE b.hash = p.birth) AND EXISTS (SELECT FROM pins WHERE gateway = s.gateway)
ORDER BY p.stream, p.seq DESC LIMIT %s
