"""The store: what devices and people said, on disk, and every change of it on its way to the screens (SPEC sections 2 and 6).

Rooms, from the top; each knows those below it only (contracts in setup.cfg):

- `storage` runs the store as a whole, `opening` opens it; `repositories` are the loop's way to what people say.
- `intake` is the way in, from a submission to the commit, the spool or the dead letters; `core/spooling.py` decides.
- `log` reads and follows the change log, keeps it small, owns the epoch and the high-water mark.
- `tables` is SQL by noun.
- `engine` is the database behind one seam: SQLite, Postgres, schema, triggers; `migrations` are the steps between versions.
"""
