"""The database: one writer, short readers, and a change log that triggers fill (SPEC section 6)."""
