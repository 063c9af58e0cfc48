-- A finding for each new boot that has sequences in common with another boot of the same history: a rollback or a clone.
INSERT INTO findings (stream, seq, boot, code)
SELECT DISTINCT a.stream, 0, greatest(a.boot, b.boot), 'conflict'
FROM (SELECT DISTINCT stream, boot FROM new) n JOIN boots a ON a.stream = n.stream AND a.boot = n.boot
JOIN boots b ON b.stream = a.stream AND b.boot <> a.boot AND b.line = a.line AND b.seqs && a.seqs
ON CONFLICT DO NOTHING
