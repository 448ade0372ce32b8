"""Shells that devices speak to: TCP and serial (SPEC section 5)."""
