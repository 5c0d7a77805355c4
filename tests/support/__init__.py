"""Shared by tests: profiles, fakes and strategies."""
