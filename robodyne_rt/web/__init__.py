"""HTTP and WebSocket shells (SPEC sections 3, 7 and 12)."""
