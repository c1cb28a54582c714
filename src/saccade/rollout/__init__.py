"""Engines that generate, and the collection of scored groups."""
