-- One review, whosever it is. $1 review id
SELECT v AS review, service_clock() AS now FROM review AS v WHERE v.review_id = $1
