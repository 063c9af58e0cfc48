-- The keys objects of the other chains of a gateway. It has several chains if a key was lost or its box was replaced, and the keys of each chain are enrolled.
-- The counter of a new chain begins anew, so the counters of two chains cannot be compared. gateways.keys is the keys object with the highest counter.
CREATE TABLE other_keys (
  gateway text NOT NULL,
  first text NOT NULL,                  -- thumbprint of the first key of the chain
  keys bytea NOT NULL,                  -- the newest keys object of the chain, as published
  counter bigint NOT NULL,
  PRIMARY KEY (gateway, first));
