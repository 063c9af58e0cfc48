-- Add the sequences of the new packs to the ranges that are stored for each boot. Adjacent ranges merge into one range.
INSERT INTO boots (stream, boot, prev_boot, begun, line, seqs, from_ms, to_ms)
SELECT stream, boot, max(prev_boot) FILTER (WHERE first), bool_or(first), boot, range_agg(int8range(seq, seq, '[]')), min(from_ms), max(to_ms)
FROM new GROUP BY stream, boot ORDER BY stream, boot
ON CONFLICT (stream, boot) DO UPDATE SET
  seqs = boots.seqs + excluded.seqs, from_ms = least(boots.from_ms, excluded.from_ms), to_ms = greatest(boots.to_ms, excluded.to_ms),
  prev_boot = coalesce(boots.prev_boot, excluded.prev_boot), begun = boots.begun OR excluded.begun, changed = now()
