-- name: lock_schema
SELECT pg_advisory_xact_lock(hashtext('vectoll schema'));

-- name: has_versions
SELECT to_regclass('vectoll.schema_versions') IS NOT NULL;

-- name: versions
SELECT part, version FROM vectoll.schema_versions;

-- name: make_versions
CREATE SCHEMA IF NOT EXISTS vectoll;
CREATE TABLE vectoll.schema_versions (
    part    text PRIMARY KEY CHECK (part IN ('pre', 'post')),
    version integer NOT NULL
);
INSERT INTO vectoll.schema_versions (part, version) VALUES ('pre', 0), ('post', 0);

-- name: set_version
UPDATE vectoll.schema_versions SET version = $2 WHERE part = $1;
