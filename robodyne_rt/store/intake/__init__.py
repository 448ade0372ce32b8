"""The way in: from a submission to the commit, the spool or the dead letters."""
