-- The revision that governs each platform now.
SELECT DISTINCT ON (platform) platform, revision FROM policy_activation
WHERE effective_time <= service_clock()
ORDER BY platform, effective_time DESC, activation DESC
