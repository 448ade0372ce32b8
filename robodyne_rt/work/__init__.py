"""What is done for people: their questions answered, their messages delivered."""
