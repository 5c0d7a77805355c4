"""Whether memory, descriptors and shared memory stay as they are over a million requests."""
