"""Memory and time of a recipe before it runs."""
