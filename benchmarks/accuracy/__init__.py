"""How good the rewards are: published protocols on real human preferences, and the recipes they were found with."""
