"""Which subnets are resident on the faster engine, and how they come to be: packed, mapped, planned with."""
