"""Training in plain PyTorch, without Ray: losses, priors, row order, training loop, checkpoints."""
