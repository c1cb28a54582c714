"""Training of the tiny base model that ships with the package."""
