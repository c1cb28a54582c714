"""Benchmark programs: `python -m benchmarks.<name>` from the root of the repository; docs/benchmarks.md says what each
measures. Not part of the wheel. One thread: the variable must be set before torch is first imported.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
