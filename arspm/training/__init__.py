"""Training on a single device, in plain PyTorch: losses, prior, row order, training loop, checkpoints."""
