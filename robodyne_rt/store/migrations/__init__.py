"""Steps from one schema version to the next, oldest first: `MIGRATIONS[0]` leads from version 1 to 2.

A new database is created by the models at the newest version; an older one gets these steps at start, each in the same
transaction as its version number, after a backup of the file. A step is a tuple of SQL statements; triggers are made anew
after all steps and need none.
"""

Migration = tuple[str, ...]

MIGRATIONS: tuple[Migration, ...] = ()
