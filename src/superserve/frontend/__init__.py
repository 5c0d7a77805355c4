"""Protocols: decode a request, ask the data plane, encode what comes back."""
