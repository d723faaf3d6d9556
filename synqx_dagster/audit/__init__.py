"""The audit trail: who did what, from where, with which outcome; an append-only chain of hashes in the catalog."""
