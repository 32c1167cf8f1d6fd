"""Training a reward model from human preferences: data, losses, fitting, evaluation, export."""
