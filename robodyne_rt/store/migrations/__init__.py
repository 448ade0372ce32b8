"""Steps from one schema version to the next, one frozen file each: what a released one says is never changed.

A new database is created by the models at the newest version; an older one gets these steps at start, after a copy of a
SQLite file (`runner.py`). Triggers are made anew after all steps and need none.
"""

from robodyne_rt.store.migrations.migration import Migration
from robodyne_rt.store.migrations.v0002_dead_letters import DEAD_LETTERS
from robodyne_rt.store.migrations.v0003_people import PEOPLE
from robodyne_rt.store.migrations.v0004_order_steps import ORDER_STEPS
from robodyne_rt.store.migrations.v0005_issuers_users import ISSUERS_USERS

MIGRATIONS: tuple[Migration, ...] = (DEAD_LETTERS, PEOPLE, ORDER_STEPS, ISSUERS_USERS)
