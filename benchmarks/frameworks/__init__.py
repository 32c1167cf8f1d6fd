"""Other systems' own clients against a real server."""
