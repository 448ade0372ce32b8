"""Steps from one schema version to the next, oldest first: `MIGRATIONS[0]` leads from version 1 to 2.

A new database is created by the models at the newest version; an older one gets these steps at start, each in the same
transaction as its version number, after a backup of a SQLite file. Triggers are made anew after all steps and need none.
"""

from robodyne_rt.store.migrations.migration import Migration
from robodyne_rt.store.migrations.people import PEOPLE

DEAD_LETTERS = Migration(
    sqlite=(
        "CREATE TABLE dead_letter (id INTEGER NOT NULL, kind TEXT NOT NULL, device TEXT, message_id TEXT, "
        "payload TEXT NOT NULL, error TEXT NOT NULL, attempts INTEGER NOT NULL, "
        "first_at TEXT NOT NULL, last_at TEXT NOT NULL, age_s INTEGER DEFAULT '0' NOT NULL, PRIMARY KEY (id), "
        "CONSTRAINT first_at_is_utc CHECK (first_at GLOB '????-??-??T??:??:??*Z'), "
        "CONSTRAINT last_at_is_utc CHECK (last_at GLOB '????-??-??T??:??:??*Z')) STRICT",
        "CREATE INDEX dead_letter_by_message ON dead_letter (device, message_id)",
        "UPDATE device_message SET at = 0",  # from here on by the database's age
    ),
    postgres=(),  # Postgres came with version 2
)

MIGRATIONS: tuple[Migration, ...] = (DEAD_LETTERS, PEOPLE)
