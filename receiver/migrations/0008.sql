-- The time at which a pack of the boot was sent again, because its ack was lost: the keeper looks for new acks at this boot. It is not in the column changed,
-- because an old pack is no activity of the boot.
ALTER TABLE boots ADD again timestamptz;
CREATE INDEX ON boots (again) WHERE again IS NOT NULL;
