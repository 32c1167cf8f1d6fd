"""Files in the formats of RewardBench, RewardBench 2 and RM-Bench, scored by the rules of each."""
