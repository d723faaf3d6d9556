"""The REST API: the catalog, runs, people and agents over HTTP, with the records and checks that YAML has."""
