-- The streams of which some or all missing packs do not count: streams that were not agreed, streams of removed gateways, and retired streams.
WITH s AS (
  SELECT a.id, a.name, a.asked AND EXISTS (SELECT FROM pins p WHERE p.gateway = a.gateway) AS asked FROM agreed_streams a
), states AS (
  SELECT name, asked, asked AND NOT EXISTS (SELECT FROM checkpoint_heads c WHERE c.stream = s.id AND c.retired) AS awaited FROM s
)
SELECT name, asked, awaited FROM states WHERE NOT awaited
