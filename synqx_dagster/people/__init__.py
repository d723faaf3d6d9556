"""People: accounts, passwords, tokens, sessions, keys of services, and what each role may do."""
