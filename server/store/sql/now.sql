-- The service's clock.
SELECT service_clock() AS now
