"""The nouns: entities, topics, changes. No I/O, no clock."""
