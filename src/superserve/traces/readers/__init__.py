"""Readers of the trace files that others publish."""
