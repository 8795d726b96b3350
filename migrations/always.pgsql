-- What every run of the migrations does once they are applied: the partitions of the year to come. Run them at least
-- once a quarter; what no dated partition covers lands in the default one, which retention cannot drop.
SELECT ensure_risk_event_partitions(now(), now() + interval '1 year');
-- Events of a database that was filled from a dump take their places in this one's order of transactions.
SELECT event_feed_renumber();
