"""Reward functions in the signatures of other frameworks; none of them is imported here."""
