"""SQL by noun."""
