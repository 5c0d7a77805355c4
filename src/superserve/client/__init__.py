"""What speaks to a server: the Python clients and the open-loop load generator."""
