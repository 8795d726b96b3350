-- What request ids were answered before, in the order asked.
SELECT d.input_hash, d.response
FROM (SELECT request.*, row_number() OVER () AS position
      FROM :request(account_id text, request_id uuid)) AS i
LEFT JOIN command AS d ON d.account_id = i.account_id AND d.request_id = i.request_id
ORDER BY i.position
