"""A pretend restaurant that speaks the real bytes."""
