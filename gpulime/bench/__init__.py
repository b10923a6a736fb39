"""``gpulime bench``: measure the speed of a user's model and images on their machine, and find faster settings."""
