"""Router, worker processes and configuration: everything of a server but its protocols."""
