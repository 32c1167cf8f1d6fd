"""How good the model is, and how far that can be trusted."""
