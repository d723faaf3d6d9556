"""Watches servers, connections and this machine; changes none of them. See docs/monitoring.md."""
