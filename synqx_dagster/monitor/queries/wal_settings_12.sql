-- What bounds the log; -1 is no bound.
select
    current_setting('wal_level') as wal_level,
    current_setting('archive_mode') as archive_mode,
    pg_size_bytes(current_setting('max_wal_size')) as max_wal_bytes,
    current_setting('wal_keep_segments')::int8 * pg_size_bytes(current_setting('wal_segment_size')) as wal_keep_bytes,
    null::int8 as max_slot_wal_keep_bytes,
    current_setting('max_replication_slots')::int8 as max_slots,
    current_setting('max_wal_senders')::int8 as max_clients
