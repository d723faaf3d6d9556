-- What decoding for each logical slot wrote to the server's disk, or sent before the commit, counted since a moment.
select
    slot_name::text as name,
    spill_txns::int8 as spilled_transactions,
    spill_count::int8 as spills,
    spill_bytes::int8 as spilled_bytes,
    stream_txns::int8 as streamed_transactions,
    stream_bytes::int8 as streamed_bytes,
    total_txns::int8 as total_transactions,
    total_bytes::int8 as total_bytes
from pg_stat_replication_slots
