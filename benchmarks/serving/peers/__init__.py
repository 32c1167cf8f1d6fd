"""The servers that are raced, one module each."""
