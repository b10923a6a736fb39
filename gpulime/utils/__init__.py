"""lime's helpers, with its names."""
