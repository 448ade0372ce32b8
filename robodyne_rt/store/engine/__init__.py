"""What the store stands on: the database behind one seam, its schema and its triggers."""
