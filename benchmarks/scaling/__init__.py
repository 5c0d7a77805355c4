"""What one front end, one scheduler and many of them sustain: the figures of docs/scaling.md."""
