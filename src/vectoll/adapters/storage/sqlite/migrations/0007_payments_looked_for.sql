-- What failed is forgotten, and what was taken back is looked at again, every few minutes: all payments that there ever
-- were had to be read for it, the former in a transaction that charges wait for.
DROP INDEX payments_refused;
CREATE INDEX payments_failed ON payments (updated_at) WHERE state = 'failed';
CREATE INDEX payments_reversed ON payments (updated_at) WHERE state = 'reversed';
