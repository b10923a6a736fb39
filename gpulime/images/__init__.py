"""Images as inputs that consist of segments."""
