-- name: vector_available
-- why: doctor: pgvector is the one extension that the platform needs.
SELECT count(*) FROM pg_available_extensions WHERE name = 'vector';

-- name: store_status
-- why: `interlock store status`: version, size, connections and the extensions that are probed for.
SELECT current_setting('server_version') AS server_version,
       pg_database_size(current_database()) AS size_bytes,
       (SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()) AS connections,
       (SELECT array_agg(name::text ORDER BY name) FROM pg_available_extensions
         WHERE name IN ('vector', 'pg_stat_statements', 'amcheck')) AS extensions;
