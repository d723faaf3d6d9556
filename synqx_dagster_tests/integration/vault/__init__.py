"""The vault over a real catalog."""
