CREATE TEMP TABLE new ON COMMIT DROP AS
SELECT stream, seq, boot, prev_boot, from_ms, to_ms, hash, first, signer, lot, readings, due, gaps, asleep, reasons, faults
FROM packs WHERE lot = ANY(%s) ORDER BY stream, seq
