"""Floor 6: engines that generate, and the collection of scored groups."""
