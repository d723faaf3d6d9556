-- The archiver: what it archived, and what it could not.
select
    archived_count::int8 as archived,
    failed_count::int8 as failed,
    last_archived_wal as last_archived_file,
    last_archived_time as last_archived_at,
    last_failed_wal as last_failed_file,
    last_failed_time as last_failed_at,
    stats_reset as reset_at
from pg_stat_archiver
