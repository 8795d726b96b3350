-- The number of the revision that governs now. $1 platform
SELECT revision FROM policy_activation
WHERE platform = $1 AND effective_time <= service_clock()
ORDER BY effective_time DESC, activation DESC LIMIT 1
