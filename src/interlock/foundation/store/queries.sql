-- name: unsafe_role
-- why: a role that owns, bypasses or outranks the policies makes every scope meaningless, so it is refused at start
SELECT CASE
    WHEN r.rolsuper THEN format('role %s is a superuser', r.rolname)
    WHEN r.rolbypassrls THEN format('role %s bypasses row-level security', r.rolname)
    WHEN owned.relname IS NOT NULL THEN format('role %s owns table %s', r.rolname, owned.relname)
    WHEN bare.relname IS NOT NULL THEN format('table %s lacks forced row-level security', bare.relname)
  END AS finding
FROM pg_roles r
LEFT JOIN LATERAL (
  SELECT c.relname FROM pg_class c
  WHERE c.relowner = r.oid AND c.relkind IN ('r', 'p', 'v', 'm', 'f') AND c.relpersistence <> 't' LIMIT 1
) owned ON true
LEFT JOIN LATERAL (
  SELECT c.relname FROM pg_class c
  JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'organization_id' AND NOT a.attisdropped
  WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p')
    AND NOT (c.relrowsecurity AND c.relforcerowsecurity) LIMIT 1
) bare ON true
WHERE r.rolname IN (current_user, 'interlock_ops')
ORDER BY 1 LIMIT 1;

-- name: migration_lock
-- why: two starts at once apply each file once
SELECT pg_advisory_lock(7710251, 1);

-- name: migration_unlock
-- why: the lock is the session's, not the transaction's, as each file is a transaction of its own
SELECT pg_advisory_unlock(7710251, 1);

-- name: migrations_exist
-- why: an empty database has no table of migrations yet
SELECT to_regclass('public.store_migrations') IS NOT NULL;

-- name: migrations_applied
-- why: what the store has, to be compared with what the code brings
SELECT version, name, sha256, phase FROM store_migrations ORDER BY version;

-- name: record_migration
-- why: the file and its record commit together
INSERT INTO store_migrations (version, name, phase, sha256, ms, app_version) VALUES ($1, $2, $3, $4, $5, $6);

-- name: older_sessions
-- why: a contract file would pull a column away from under a process that still runs the release before
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND application_name LIKE 'interlock/%'
  AND split_part(application_name, '/', 2) <> $1 AND pid <> pg_backend_pid();

-- name: partitioned_tables
-- why: partitions are made for whatever the catalogue says is split by range, so that no table can be forgotten
SELECT c.oid::regclass::text AS name, t.typname AS key_type,
  CASE WHEN obj_description(c.oid, 'pg_class') LIKE '%partitions: month%' THEN 'month' ELSE 'day' END AS step
FROM pg_partitioned_table p
JOIN pg_class c ON c.oid = p.partrelid AND c.relnamespace = 'public'::regnamespace
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = p.partattrs[0]
JOIN pg_type t ON t.oid = a.atttypid
WHERE p.partstrat = 'r' AND p.partnatts = 1
ORDER BY 1;

-- name: missing_partitions
-- why: which of the coming partitions are not there yet; the store's clock decides what is coming
SELECT $1 || to_char(moment, CASE WHEN $2 = 'month' THEN '"_p"YYYYMM' ELSE '"_p"YYYYMMDD' END) AS name,
  moment AS starts_at, moment + ('1 ' || $2)::interval AS ends_at
FROM generate_series(
  date_trunc($2, now() AT TIME ZONE 'UTC') - ('1 ' || $2)::interval,
  date_trunc($2, now() AT TIME ZONE 'UTC') + $3::integer * ('1 ' || $2)::interval,
  ('1 ' || $2)::interval) AS moment
WHERE to_regclass('public.' || quote_ident(
  $1 || to_char(moment, CASE WHEN $2 = 'month' THEN '"_p"YYYYMM' ELSE '"_p"YYYYMMDD' END))) IS NULL
ORDER BY moment;

-- name: partition_lock
-- why: two workers at once make each partition once
SELECT pg_advisory_lock(7710251, 2);

-- name: partition_unlock
-- why: the next worker may look
SELECT pg_advisory_unlock(7710251, 2);
