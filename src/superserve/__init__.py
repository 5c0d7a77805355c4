"""SuperServe: serve a weight-shared supernet; for every batch the most accurate subnet that the deadlines allow."""

__version__ = "0.1.0"

__all__ = ["__version__"]
