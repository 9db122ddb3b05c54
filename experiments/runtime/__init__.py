"""What keeps a run alive: files, errors, signals, processes. No result depends on it."""
