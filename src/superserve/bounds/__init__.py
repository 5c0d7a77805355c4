"""What no policy can pass: exact optima of small instances and certified bounds for long traces."""
