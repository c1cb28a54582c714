"""The run directory, written and read: records, files, environment, progress, re-scoring, disk space."""
