-- When a key was last charged in a period. Every charge writes these rows anyway; an index of transfers by key, which
-- nothing else used, cost each charge one more page somewhere in the file.
ALTER TABLE key_spend ADD COLUMN charged_at INTEGER;

UPDATE key_spend SET charged_at = (
    SELECT created_at FROM transfers WHERE transfers.key = key_spend.key ORDER BY seq DESC LIMIT 1
) WHERE period = 'LIFETIME';

DROP INDEX transfers_by_key;
