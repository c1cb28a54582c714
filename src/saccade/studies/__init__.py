"""Claims as runnable experiments. The demo is the first of them."""
