"""One server on one port: the REST API and Dagster's own web UI, behind logins, roles and the audit trail."""
