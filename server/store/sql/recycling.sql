-- One recycling. $1 account id  $2 recycling id
SELECT r AS recycling, service_clock() AS now FROM recycling AS r WHERE r.account_id = $1 AND r.recycling_id = $2
