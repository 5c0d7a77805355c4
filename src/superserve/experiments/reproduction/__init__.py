"""The paper's experiments again, each with the paper's claim beside our figure."""
