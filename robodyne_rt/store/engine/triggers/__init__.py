"""The triggers that fill the change log, in the words of each database."""
