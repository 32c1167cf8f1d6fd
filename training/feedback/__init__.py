"""Reinforcement learning against a served reward model: PPO of our own, GRPO by TRL, rewards over HTTP."""
