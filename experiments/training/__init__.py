"""What the experiments share and a reader of their results should know."""
