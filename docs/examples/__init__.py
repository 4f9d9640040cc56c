"""Examples that an installed normlib can run: ``python -m normlib demo``."""
