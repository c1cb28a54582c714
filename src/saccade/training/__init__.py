"""Supervised fine-tuning, reinforcement learning, checkpoints, the optimizer."""
