"""Pipelines: a graph of nodes planned into steps, and steps that stream rows from extracts to one load."""
