"""The tables of a restaurant (SPEC section 2), as SQLModel.

Foreign programs write here too, so enums, ranges and references are constraints of the database. On SQLite the tables are
STRICT: a column holds its type or the write fails. (JSON text is not checked there: SQLite 3.40 counts `json_valid` as
unsafe in a schema; what is no JSON is shown as null.) Rows are read and written as plain SQL (store/); the models give the
columns, the constraints and the documentation. The schema that a server creates is generated from here (`scripts/schema`),
so that serving does not have to load all this.
"""

# In this order the tables stand in the generated schema.
# isort: off
from robodyne_rt.model.entities.columns import BOOLEAN, JSON
from robodyne_rt.model.entities.restaurant import Robot
from robodyne_rt.model.entities import people
from robodyne_rt.model.entities import bookkeeping
# isort: on

__all__ = ["BOOLEAN", "JSON", "Robot", "bookkeeping", "people"]
