"""What is wrong with the data itself: for the person at the console, never on a wire."""


class SchemaMismatch(Exception):
    """The database has the schema of another version of this program."""


class SchemaTooNew(SchemaMismatch):
    """The database was written by a newer version of this program."""


class DataOwned(Exception):
    """Another process owns the data: a server, or a command that writes without one. The text names it."""


class StorageBroken(Exception):
    """The database file cannot be trusted any more (I/O error, corruption): exit, let systemd restart and recover."""


class FilesReplaced(StorageBroken):
    """The database's files were deleted or replaced while they were open: what is written there nobody finds again."""
