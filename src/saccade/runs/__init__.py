"""Writing and reading the run directory: records, files, environment, progress, re-scoring, disk space."""
