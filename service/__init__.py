"""The scoring server. Imports neither torch nor training."""
