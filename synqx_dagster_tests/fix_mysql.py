"""A real MariaDB for the tests, as a process of its own."""
