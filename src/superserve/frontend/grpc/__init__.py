"""The gRPC front end: the Open Inference Protocol, health checking and reflection."""
