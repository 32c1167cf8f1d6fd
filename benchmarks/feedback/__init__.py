"""A policy learns from a served reward model, over HTTP: curves, held-out rewards, over-optimisation, faults."""
