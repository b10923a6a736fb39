"""``gpulime bench``: how fast a user's model and images are explained on their machine, and what would make it faster."""
