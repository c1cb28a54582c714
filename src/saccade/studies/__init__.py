"""Floor 8: claims as runnable experiments. The demo is the first of them."""
