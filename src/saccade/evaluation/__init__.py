"""Benchmarks, intervals and paired comparisons: how good a model is, and how sure one can be of it."""
