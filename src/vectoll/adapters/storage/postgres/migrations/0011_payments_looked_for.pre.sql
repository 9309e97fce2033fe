-- What failed is forgotten, and what was taken back is looked at again, every few minutes: all payments that there ever
-- were had to be read for it.
CREATE INDEX payments_failed ON vectoll.payments (updated_at) WHERE state = 'failed';
CREATE INDEX payments_reversed ON vectoll.payments (updated_at) WHERE state = 'reversed';
