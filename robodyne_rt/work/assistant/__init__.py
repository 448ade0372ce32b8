"""What answers questions: rules, which need no model."""
