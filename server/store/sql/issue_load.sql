-- What issuing needs to know of each item, in order: the moment, what was answered to its request id before, the
-- account's segment, and whether its serial is taken.
WITH moment AS MATERIALIZED (
  SELECT service_clock() AS now
)
SELECT moment.now, a.segment, d.input_hash, d.response, s.card_id IS NOT NULL AS serial_taken,
       (SELECT p.revision FROM policy_activation AS p
        WHERE p.platform = i.platform AND p.effective_time <= moment.now
        ORDER BY p.effective_time DESC, p.activation DESC LIMIT 1) AS policy_revision
FROM (SELECT item.*, row_number() OVER () AS position
      FROM :item(account_id text, request_id uuid, platform text, external_serial text)) AS i
CROSS JOIN moment
LEFT JOIN account AS a ON a.account_id = i.account_id
LEFT JOIN command AS d ON d.account_id = i.account_id AND d.request_id = i.request_id
LEFT JOIN card_serial AS s ON s.platform = i.platform AND s.external_serial = i.external_serial
ORDER BY i.position
