"""Arrival traces: the canonical file and what makes or reads one."""
