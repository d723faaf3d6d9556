-- What was written, counted since a moment.
select
    wal_records::int8 as records,
    wal_fpi::int8 as full_page_images,
    wal_bytes::int8 as bytes,
    wal_buffers_full::int8 as buffers_full,
    stats_reset as reset_at
from pg_stat_wal
