-- Packs that a gateway sent again although they were stored and then dropped. Their ack was lost, so the keeper acknowledges each of them once more.
CREATE TABLE acks_due (
  stream bigint NOT NULL, boot bigint NOT NULL, seq bigint NOT NULL,
  hash bytea NOT NULL,                  -- the full SHA-256, because the body is not stored any more
  PRIMARY KEY (stream, boot, seq, hash));
