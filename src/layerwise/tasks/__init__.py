"""What the examples mean: inputs to tensors, targets to losses, outputs to predictions."""
