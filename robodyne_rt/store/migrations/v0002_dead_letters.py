"""Version 2: dead letters, and message ids that age by the time of service. Postgres came with it."""

from robodyne_rt.store.migrations.migration import Migration, Statement

DEAD_LETTERS = Migration(
    version=2,
    steps=(
        Statement(
            sqlite="CREATE TABLE dead_letter (id INTEGER NOT NULL, kind TEXT NOT NULL, device TEXT, message_id TEXT, "
            "payload TEXT NOT NULL, error TEXT NOT NULL, attempts INTEGER NOT NULL, "
            "first_at TEXT NOT NULL, last_at TEXT NOT NULL, age_s INTEGER DEFAULT '0' NOT NULL, PRIMARY KEY (id), "
            "CONSTRAINT first_at_is_utc CHECK (first_at GLOB '????-??-??T??:??:??*Z'), "
            "CONSTRAINT last_at_is_utc CHECK (last_at GLOB '????-??-??T??:??:??*Z')) STRICT",
            postgres="",
        ),
        Statement("CREATE INDEX dead_letter_by_message ON dead_letter (device, message_id)", ""),
        Statement("UPDATE device_message SET at = 0", ""),
    ),
)
