"""Training speed beside TRL's RewardTrainer and a plain padded loop, on the same pairs."""
