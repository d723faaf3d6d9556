"""Every type and value that must arrive exactly, on every route; the outcome is printed into docs/types.md."""
