"""What people run around the experiments."""
