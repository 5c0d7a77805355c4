"""Experiments that run the whole system: the demo."""
