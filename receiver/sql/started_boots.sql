SELECT DISTINCT n.stream FROM new n LEFT JOIN boots b USING (stream, boot) WHERE b.stream IS NULL OR (n.first AND NOT b.begun)
