"""From trained weights to a bundle: graph, proof of parity, manifest."""
