-- Which cluster this is: a copy of it has the same identifier, another cluster never has.
select system_identifier::text as system_identifier
from pg_control_system()
