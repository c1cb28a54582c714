"""Floor 7: supervised fine-tuning, reinforcement learning, checkpoints, and the records of a run."""
