"""What the experiments share: data, devices, state, checkpoints, metrics and the training loop."""
