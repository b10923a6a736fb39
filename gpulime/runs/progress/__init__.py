"""Progress: which process does what, how far a run is, and how it ends."""
