"""Images as inputs made of segments."""
