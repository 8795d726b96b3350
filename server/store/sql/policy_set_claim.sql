-- Waits for whoever is changing which policies govern, and makes those who checked what governs now check it again.
UPDATE policy_set SET version = version + 1
