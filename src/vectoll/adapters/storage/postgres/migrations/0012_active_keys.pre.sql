-- An account's keys that can be used: one that has had a hundred thousand that lapsed may have five of them.
CREATE INDEX api_keys_active ON vectoll.api_keys (account, expires_at) WHERE revoked_at IS NULL;
