-- Payments that were refused before they were sent: strangers make them, so they are forgotten after a while.
CREATE INDEX payments_refused ON payments (updated_at) WHERE state = 'failed' AND since_block = 0 AND tx IS NULL;
