"""Claims as runnable experiments, such as the demo."""
