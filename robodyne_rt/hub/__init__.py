"""Topics and the connections that watch them (SPEC section 3)."""
