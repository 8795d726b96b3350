-- Moves the clock of a back-test database forward, never back. Changes no row where the clock is real. $1 the moment
UPDATE backtest_clock SET shifted_time = greatest(shifted_time, $1) RETURNING shifted_time
