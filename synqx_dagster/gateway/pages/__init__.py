"""Pages that SynqX has of its own beside Dagster's: login, account, and what to do before there is a catalog."""
