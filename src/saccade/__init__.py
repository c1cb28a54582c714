"""Saccade: reinforcement learning of vision-language models where the group is the unit."""

__version__ = "0.1.0"
