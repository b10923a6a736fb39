"""Progress: division of work, state and end of a run."""
