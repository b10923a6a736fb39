"""The command ``gpulime``."""
