"""What a run would do and hold, from its configuration alone."""
