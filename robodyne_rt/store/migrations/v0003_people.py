"""Version 3: people, tokens, devices, sessions, requests and staff messages."""

from robodyne_rt.store.migrations.migration import AddColumn, Migration, Statement, both

PEOPLE = Migration(
    version=3,
    steps=(
        # The first databases of version 2 were made before this column was.
        AddColumn("dead_letter", "age_s", "integer", default="0"),
        AddColumn("chat_message", "user_name", "text"),
        AddColumn("chat_message", "session_id", "text"),
        AddColumn("chat_message", "request_id", "text"),
        AddColumn("chat_message", "dialect", "text"),
        AddColumn("chat_message", "status", "text"),
        AddColumn("chat_message", "code", "text"),
        AddColumn("chat_message", "seq", "integer"),
        AddColumn("chat_message", "answered_at", "time"),
        both("CREATE UNIQUE INDEX chat_message_by_request ON chat_message (user_name, request_id)"),
        both("CREATE INDEX chat_message_by_session ON chat_message (session_id, seq)"),
        both("CREATE INDEX chat_message_by_status ON chat_message (status)"),
        Statement(
            sqlite="CREATE TABLE device (id INTEGER NOT NULL, device_id TEXT NOT NULL, robots TEXT DEFAULT '[]' NOT NULL, "
            "key_id "
            "TEXT NOT NULL, previous_key_id TEXT, revoked INTEGER DEFAULT '0' NOT NULL, created_at TEXT, PRIMARY KEY (id), "
            "CONSTRAINT device_id_length CHECK (length(device_id) <= 200), CONSTRAINT revoked_in_range CHECK (revoked BETWEEN "
            "0 AND 1), CONSTRAINT created_at_is_utc CHECK (created_at GLOB '????-??-??T??:??:??*Z'), UNIQUE (device_id)) "
            "STRICT",
            postgres="CREATE TABLE device (id BIGSERIAL NOT NULL, device_id TEXT NOT NULL, robots JSONB DEFAULT '[]' NOT "
            "NULL, key_id "
            "TEXT NOT NULL, previous_key_id TEXT, revoked INTEGER DEFAULT '0' NOT NULL, created_at TIMESTAMP WITH TIME ZONE, "
            "PRIMARY KEY (id), CONSTRAINT device_id_length CHECK (length(device_id) <= 200), CONSTRAINT revoked_in_range "
            "CHECK (revoked BETWEEN 0 AND 1), UNIQUE (device_id))",
        ),
        Statement(
            sqlite="CREATE TABLE session (id TEXT NOT NULL, token_digest TEXT NOT NULL, user_name TEXT NOT NULL, device "
            "TEXT DEFAULT "
            "'' NOT NULL, acked INTEGER DEFAULT '0' NOT NULL, created_at TEXT NOT NULL, last_seen TEXT NOT NULL, PRIMARY KEY "
            "(id), CONSTRAINT created_at_is_utc CHECK (created_at GLOB '????-??-??T??:??:??*Z'), CONSTRAINT last_seen_is_utc "
            "CHECK (last_seen GLOB '????-??-??T??:??:??*Z')) STRICT",
            postgres="CREATE TABLE session (id TEXT NOT NULL, token_digest TEXT NOT NULL, user_name TEXT NOT NULL, device "
            "TEXT DEFAULT "
            "'' NOT NULL, acked BIGINT DEFAULT '0' NOT NULL, created_at TIMESTAMP WITH TIME ZONE NOT NULL, last_seen "
            "TIMESTAMP WITH TIME ZONE NOT NULL, PRIMARY KEY (id))",
        ),
        both("CREATE INDEX session_by_token ON session (token_digest)"),
        Statement(
            sqlite="CREATE TABLE staff_message (id INTEGER NOT NULL, sender TEXT NOT NULL, recipient TEXT NOT NULL, "
            "message TEXT NOT "
            "NULL, message_type TEXT DEFAULT 'TEXT' NOT NULL, audio_url TEXT, websocket_sent INTEGER DEFAULT '0' NOT NULL, "
            "timestamp TEXT NOT NULL, PRIMARY KEY (id), CONSTRAINT message_length CHECK (length(message) <= 20000), "
            "CONSTRAINT websocket_sent_in_range CHECK (websocket_sent BETWEEN 0 AND 1), CONSTRAINT timestamp_is_utc CHECK "
            "(timestamp GLOB '????-??-??T??:??:??*Z')) STRICT",
            postgres="CREATE TABLE staff_message (id BIGINT DEFAULT zz_new_id() NOT NULL, sender TEXT NOT NULL, recipient "
            "TEXT NOT "
            "NULL, message TEXT NOT NULL, message_type TEXT DEFAULT 'TEXT' NOT NULL, audio_url TEXT, websocket_sent INTEGER "
            "DEFAULT '0' NOT NULL, timestamp TIMESTAMP WITH TIME ZONE NOT NULL, PRIMARY KEY (id), CONSTRAINT message_length "
            "CHECK (length(message) <= 20000), CONSTRAINT websocket_sent_in_range CHECK (websocket_sent BETWEEN 0 AND 1))",
        ),
        both("CREATE INDEX staff_message_by_recipient ON staff_message (recipient, id)"),
        Statement(
            sqlite="CREATE TABLE token (id INTEGER NOT NULL, kind TEXT NOT NULL, user_name TEXT NOT NULL, roles TEXT, "
            "label TEXT, "
            "refresh_digest TEXT, previous_digest TEXT, created_at TEXT NOT NULL, rotated_at TEXT, expires_at TEXT NOT NULL, "
            "revoked_at TEXT, PRIMARY KEY (id), CONSTRAINT kind_is_known CHECK (kind = 'LOGIN' OR kind = 'DISPLAY' OR kind = "
            "'API'), CONSTRAINT user_name_length CHECK (length(user_name) <= 200), CONSTRAINT label_length CHECK "
            "(length(label) <= 200), CONSTRAINT created_at_is_utc CHECK (created_at GLOB '????-??-??T??:??:??*Z'), CONSTRAINT "
            "expires_at_is_utc CHECK (expires_at GLOB '????-??-??T??:??:??*Z'), CONSTRAINT rotated_at_is_utc CHECK "
            "(rotated_at GLOB '????-??-??T??:??:??*Z'), CONSTRAINT revoked_at_is_utc CHECK (revoked_at GLOB "
            "'????-??-??T??:??:??*Z')) STRICT",
            postgres="CREATE TABLE token (id BIGINT DEFAULT zz_new_id() NOT NULL, kind TEXT NOT NULL, user_name TEXT NOT "
            "NULL, roles "
            "JSONB, label TEXT, refresh_digest TEXT, previous_digest TEXT, created_at TIMESTAMP WITH TIME ZONE NOT NULL, "
            "rotated_at TIMESTAMP WITH TIME ZONE, expires_at TIMESTAMP WITH TIME ZONE NOT NULL, revoked_at TIMESTAMP WITH "
            "TIME ZONE, PRIMARY KEY (id), CONSTRAINT kind_is_known CHECK (kind = 'LOGIN' OR kind = 'DISPLAY' OR kind = "
            "'API'), CONSTRAINT label_length CHECK (length(label) <= 200), CONSTRAINT user_name_length CHECK "
            "(length(user_name) <= 200))",
        ),
        both("CREATE INDEX token_by_expires_at ON token (expires_at)"),
        Statement(
            sqlite="CREATE TABLE user_ (id INTEGER NOT NULL, name TEXT NOT NULL, roles TEXT DEFAULT '[]' NOT NULL, "
            "password_hash "
            "TEXT, disabled INTEGER DEFAULT '0' NOT NULL, created_at TEXT, PRIMARY KEY (id), CONSTRAINT name_length CHECK "
            "(length(name) <= 200), CONSTRAINT disabled_in_range CHECK (disabled BETWEEN 0 AND 1), CONSTRAINT "
            "created_at_is_utc CHECK (created_at GLOB '????-??-??T??:??:??*Z'), UNIQUE (name)) STRICT",
            postgres="CREATE TABLE user_ (id BIGSERIAL NOT NULL, name TEXT NOT NULL, roles JSONB DEFAULT '[]' NOT NULL, "
            "password_hash "
            "TEXT, disabled INTEGER DEFAULT '0' NOT NULL, created_at TIMESTAMP WITH TIME ZONE, PRIMARY KEY (id), CONSTRAINT "
            "disabled_in_range CHECK (disabled BETWEEN 0 AND 1), CONSTRAINT name_length CHECK (length(name) <= 200), UNIQUE "
            "(name))",
        ),
        Statement(
            sqlite="CREATE TABLE staff_message_receipt (message_id INTEGER NOT NULL, user_name TEXT NOT NULL, read_at "
            "TEXT NOT NULL, "
            "PRIMARY KEY (message_id, user_name), CONSTRAINT read_at_is_utc CHECK (read_at GLOB '????-??-??T??:??:??*Z'), "
            "FOREIGN KEY(message_id) REFERENCES staff_message (id) ON DELETE CASCADE) STRICT",
            postgres="CREATE TABLE staff_message_receipt (message_id BIGINT NOT NULL, user_name TEXT NOT NULL, read_at "
            "TIMESTAMP WITH "
            "TIME ZONE NOT NULL, PRIMARY KEY (message_id, user_name), FOREIGN KEY(message_id) REFERENCES staff_message (id) "
            "ON DELETE CASCADE)",
        ),
    ),
)
