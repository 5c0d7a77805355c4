"""What both ends of the Open Inference Protocol share: protobuf messages and the wire forms of tensors. No I/O."""
