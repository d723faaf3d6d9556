-- What the log takes on the server's disk.
select count(*)::int8 as files, coalesce(sum(size), 0)::int8 as bytes
from pg_ls_waldir()
