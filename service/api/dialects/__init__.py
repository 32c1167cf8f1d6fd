"""Other systems' wire formats, one module each, all on the same scorer."""
