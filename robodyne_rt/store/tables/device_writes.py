"""One device message -> rows, inside the writer's transaction (SPEC section 5, the table of messages).

Names are resolved here, because only the transaction knows what exists. Messages bring them in NFC; a row that a foreign
program wrote in another form is the same thing. The rule of every method: look up, refuse (`InvalidPayload`), then write; a
refused message leaves no trace.
"""

import contextlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import orjson

from robodyne_rt.core import order_steps
from robodyne_rt.model import times
from robodyne_rt.model.changes import Entity
from robodyne_rt.model.enums import OrderStatus, TableStatus
from robodyne_rt.model.names import nfc
from robodyne_rt.protocol.device_messages import (
    CLOCK_AHEAD_S,
    POSE,
    Bye,
    Chatbot,
    CommandReport,
    DeviceMessage,
    EventReport,
    Face,
    Hello,
    Log,
    OrderReport,
    RobotReport,
    StockReport,
    TableReport,
    clock_is_off,
)
from robodyne_rt.protocol.errors import Conflict, DeadLettered, InvalidPayload
from robodyne_rt.store.engine.database import DbConnection

MAX_MENTIONED = 500
"""Robots, and tables, that are made by being mentioned."""

MAX_NOTED = 2 * MAX_MENTIONED
"""Things of which it is noted beside the rows when they were heard."""

QUIET_INTERVAL_S = 10.0
"""`last_seen` and `updated_at` alone are stored at most this often."""

REMEMBERED_S = 7 * 86400
"""How long a message's id is known, counted while the server runs."""

PRESENCE_RELIABLE = 0.5

_STATE_REPORTS = (RobotReport, TableReport, Face, StockReport)
_STAMPED_BY = {"PREPARING": "preparing_at", "READY": "ready_at", "SERVED": "served_at"}
_ROBOT_STATE = ("status", "battery_level", "name", "mac_address", "ip_address", *POSE, "joints", "link")
_ROBOT_COLUMNS = ("id", *_ROBOT_STATE, "last_seen", "reported_at")
_SELECT_ROBOT = f"SELECT {', '.join(_ROBOT_COLUMNS)} FROM robot WHERE robot_id = ?"
_NAME_COLUMNS = {
    "robot": ("robot_id",),
    "menu_item": ("name", "name_en"),
    "ingredient": ("name", "name_en"),
    "inventory": ("name",),
}


class DeviceMessageWriter:
    """Writes messages with one connection; belongs to the thread that owns it."""

    def __init__(self, db: DbConnection) -> None:
        self.db = db
        self.age_s = 0
        """Seconds that this database was served for: by them ids are forgotten, because a wall clock may jump by years."""
        self._execute = db.execute
        self._reported: dict[str, float] = {}
        self._heard: dict[tuple[str, Any], str] = {}
        """When the newest state of a thing was heard that was stored, or said nothing new."""
        self._spellings: dict[tuple[str, str], str] = {}
        """How a name is stored that is not stored in NFC, by table and name; where a row was renamed it is looked for anew."""
        self._handlers: dict[type[DeviceMessage], Callable[..., Entity | None]] = {
            Hello: self._hello,
            Bye: self._bye,
            TableReport: self._table,
            EventReport: self._event,
            OrderReport: self._order,
            StockReport: self._stock,
            Face: self._face,
            Chatbot: self._chatbot,
            Log: self._log,
            CommandReport: self._command_report,
        }

    def message(self, message: DeviceMessage, device: str, digest: str, heard_at: str, ids: Sequence[int]) -> Entity | None:
        """Store one message, once; return the answer's `details`.

        Args:
            device: under whose name `message.id` counts.
            digest: of the body; empty where there is no id.
            heard_at: wall time of receipt, as text.
            ids: enough ids for the rows it makes.
        Raises:
            InvalidPayload: it names something that does not exist.
            Conflict: the id was used for another body.
        """
        if digest:
            key = (device, message.id)
        elif self.db.commit_may_be_unknown:
            key = ("", f"#{ids[0]}")  # our own name for it: a commit that was never answered must not be done twice
        else:
            return self._apply(message, device, heard_at, ids)
        taken = self._execute(
            'INSERT INTO device_message(device, id, body, "row", at) VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING',
            (*key, digest, ids[0], self.age_s),
        )
        if not taken.rowcount:
            if digest:
                assert message.id is not None
                ids = [self._row_of_claim(device, message.id, digest)]
            return details(message, ids)
        try:
            return self._apply(message, device, heard_at, ids)
        except InvalidPayload:
            # Refused is not stored: the device may repair the message and send it under the same id.
            self._execute("DELETE FROM device_message WHERE device = ? AND id = ?", key)
            raise

    def claim(self, device: str, id: str, digest: str, row: int) -> int:
        """Take an id; return the row that it was first taken for, which is `row` where that is now.

        Raises:
            Conflict: the id was used for another body.
            DeadLettered: what it was used for could not be stored.
        """
        taken = self._execute(
            'INSERT INTO device_message(device, id, body, "row", at) VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING',
            (device, id, digest, row, self.age_s),
        )
        return row if taken.rowcount else self._row_of_claim(device, id, digest)

    def forget_unstored(self) -> None:
        """Forget what was noted beside the rows: a transaction was undone, and with it perhaps what it was noted for."""
        self._reported.clear()
        self._heard.clear()

    def telemetry(self, robot_id: str, fields: Entity, heard_at: str) -> None:
        """Store the newest telemetry of a robot."""
        self._robot(robot_id, "ALBABOT", fields, heard_at, None)

    def vanished(self, robot_id: str, heard_at: str, event_id: int) -> None:
        """Store that a robot fell silent, with an event."""
        row = self._find("SELECT id FROM robot WHERE robot_id = ?", "robot", robot_id)
        if row is None:
            return
        gone = self._execute("UPDATE robot SET link = 'CONNECTIONBROKEN' WHERE id = ? AND link = 'ONLINE'", row)
        if gone.rowcount:
            data = {"robot_id": robot_id, "link": "CONNECTIONBROKEN"}
            self.event(event_id, "LINK", "WARNING", "robot", row[0], f"robot {robot_id} fell silent", data, heard_at)

    def event(  # noqa: PLR0917  (one argument per column)
        self,
        id: int,
        type: str,
        severity: str,
        entity_type: str | None,
        entity_id: int | None,
        description: str | None,
        data: Any,
        at: str,
    ) -> None:
        """Insert one event row."""
        self._execute(
            "INSERT INTO event(id, type, severity, related_entity_type, related_entity_id, description, data, timestamp)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (id, type, severity, entity_type, entity_id, description, _json(data), at),
        )

    def has_event(self, id: int) -> bool:
        """Return whether an event is stored."""
        return self._execute("SELECT 1 FROM event WHERE id = ?", (id,)).fetchone() is not None

    def server_line(self, id: int, level: str, message: str, data: Any, at: str) -> None:
        """Insert one line of the server's own log, unless it is there."""
        if self._execute("SELECT 1 FROM system_log WHERE id = ?", (id,)).fetchone() is None:
            columns = {"id": id, "level": level, "source": "server", "message": message, "data": _json(data), "timestamp": at}
            self._insert("system_log", columns)

    def store_dead_letter(self, letter: Entity, digest: str) -> int:
        """Insert one dead letter and return its id; a message that it holds counts as taken, so that its device is told the
        same again. Nothing in a letter may keep it from being stored: else it would be tried for ever."""
        letter = letter | {name: text.replace("\0", "\ufffd") for name, text in letter.items() if isinstance(text, str)}
        known = self._execute("SELECT kind, payload FROM dead_letter WHERE id = ?", (letter["id"],)).fetchone()
        if known is not None and tuple(known) == (letter["kind"], letter["payload"]):
            return int(letter["id"])  # by a commit that was never answered
        if known is not None or letter["id"] is None:
            del letter["id"]  # of a write without one, or taken: a question and its answer share theirs
        id = self._insert("dead_letter", letter | {"age_s": self.age_s})
        if letter["message_id"] is not None:
            self._execute(
                'INSERT INTO device_message(device, id, body, "row", at) VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING',
                (letter["device"], letter["message_id"], digest, id, self.age_s),
            )
        return id

    def is_outdated(self, message: DeviceMessage, heard_at: str) -> bool:
        """Return whether a report of state was overtaken: newer state of the same thing was stored since it was heard."""
        state = _state_of(message)
        if state is None:
            return False
        if self._heard.get(state, "") > heard_at:
            return True
        table, key = state
        query = {
            "robot": "SELECT last_seen FROM robot WHERE id = ?",
            "table_": "SELECT updated_at FROM table_ WHERE table_number = ?",
            "inventory": "SELECT updated_at FROM inventory WHERE id = ?",
            "ingredient": "SELECT updated_at FROM inventory WHERE ingredient_id = ?",
        }[table]
        if isinstance(key, str):
            row = self._find(f"SELECT id FROM {table} WHERE {_is_named(table)}", table, key)
            key = row[0] if row else 0
        return self._is_newer(self._execute(query, (key,)).fetchone(), heard_at)

    def _is_newer(self, row: Any, heard_at: str) -> bool:
        if row is None or row[0] is None:
            return False
        try:
            return times.to_epoch_s(self.db.time_text(row[0]) or "") > times.to_epoch_s(heard_at)
        except ValueError:
            return False

    # -- the messages --------------------------------------------------------------------------------------------

    def _apply(self, message: DeviceMessage, device: str, heard_at: str, ids: Sequence[int]) -> Entity | None:
        told: Entity | None = None
        if isinstance(message, RobotReport):
            self._robot(message.robot_id, message.robot_type, message.fields(), heard_at, message.ts)
        else:
            told = self._handlers[type(message)](message, device, heard_at, ids)
        if isinstance(message, _STATE_REPORTS) and (state := _state_of(message)) is not None:
            self._heard[state] = heard_at
            if len(self._heard) > MAX_NOTED:
                self._heard.clear()  # what is stored says nearly the same
        return details(message, ids) if told is None else told

    def _row_of_claim(self, device: str, id: str, digest: str) -> int:
        row = row_of_claim(self.db, device, id, digest, self.age_s)
        assert row is not None  # its insert met a conflict: the id is taken
        return row

    def _hello(self, message: Hello, device: str, heard_at: str, ids: Sequence[int]) -> None:
        return None

    def _bye(self, message: Bye, device: str, heard_at: str, ids: Sequence[int]) -> None:
        if message.robot_id is None:
            return
        row = self._find("SELECT id FROM robot WHERE robot_id = ?", "robot", message.robot_id)
        if row is None:
            raise InvalidPayload(f"unknown robot {message.robot_id!r}")
        self._execute("UPDATE robot SET link = 'OFFLINE', last_seen = ? WHERE id = ? AND link <> 'OFFLINE'", (heard_at, row[0]))

    def _robot(self, robot_id: str, type: str, fields: Entity, heard_at: str, ts: float | None) -> int:
        """Bring one robot up to date; make it at first mention. Return its row's id."""
        values = self._find(_SELECT_ROBOT, "robot", robot_id)
        reported, is_outdated = self._newest_ts(robot_id, values and values[-1], heard_at, ts)
        if values is None:
            self._make_room("robot")
            columns: Entity = {"robot_id": robot_id, "type": type, "name": robot_id} | fields
            columns |= {"link": "ONLINE", "last_seen": heard_at, "reported_at": reported}
            return self._insert("robot", columns)
        row = dict(zip(_ROBOT_COLUMNS, values, strict=True))
        id: int = row["id"]
        if "joints" in fields and row["joints"] is not None:
            with contextlib.suppress(ValueError):
                row["joints"] = _json(orjson.loads(row["joints"]))  # Postgres writes JSON its own way
        if is_outdated:
            fields = {}
        changed = {name: value for name, value in fields.items() if row[name] != value}
        if row["link"] != "ONLINE":
            changed["link"] = "ONLINE"
        if changed or _is_old(row["last_seen"], heard_at):
            changed["last_seen"] = heard_at
            if reported:
                changed["reported_at"] = reported
            self._update("robot", id, changed)
        return id

    def _newest_ts(self, robot_id: str, stored: str | None, heard_at: str, ts: float | None) -> tuple[str | None, bool]:
        """Return the `ts` to store as text (None where there is none to use), and whether the message is outdated."""
        if ts is None or clock_is_off(ts, times.to_epoch_s(heard_at)):
            return None, False
        newest = self._reported.get(robot_id)
        if newest is None and stored:
            newest = times.to_epoch_s(stored)
        if newest is not None and ts < newest:
            return None, True
        if len(self._reported) > MAX_NOTED:
            self._reported.clear()
        self._reported[robot_id] = ts
        return times.to_text(ts), False

    def _table(self, message: TableReport, device: str, heard_at: str, ids: Sequence[int]) -> None:
        fields: Entity = {}
        if message.status is not None:
            fields["status"] = str(message.status)
        if message.customer_count is not None:
            fields["customer_count"] = message.customer_count
        self._set_table(message.table_number, fields, heard_at)

    def _set_table(self, number: int, fields: Entity, heard_at: str) -> int:
        row = self._execute(
            "SELECT id, status, customer_count, updated_at FROM table_ WHERE table_number = ?", (number,)
        ).fetchone()
        if row is None:
            self._make_room("table_")
            return self._insert("table_", {"table_number": number, "updated_at": heard_at} | fields)
        id, status, count, updated_at = row
        stored = {"status": status, "customer_count": count}
        changed = {name: value for name, value in fields.items() if stored[name] != value}
        if changed or (fields and _is_old(updated_at, heard_at)):
            self._update("table_", id, changed | {"updated_at": heard_at})
        return int(id)

    def _event(self, message: EventReport, device: str, heard_at: str, ids: Sequence[int]) -> None:
        entity_type, entity_id = None, None
        if message.table_number is not None:
            marks = {"status": str(TableStatus.CALLING)} if message.type == "CALL" else {}
            entity_type, entity_id = "table", self._set_table(message.table_number, marks, heard_at)
        elif message.robot_id is not None:
            entity_type, entity_id = "robot", self._robot(message.robot_id, "ALBABOT", {}, heard_at, None)
        at = _moment(message, heard_at)
        self.event(ids[0], message.type, message.severity_word(), entity_type, entity_id, message.description, message.data, at)

    def _order(self, message: OrderReport, device: str, heard_at: str, ids: Sequence[int]) -> Entity | None:
        if message.order_id is not None:
            return self._move_order(message, message.order_id, heard_at)
        lines = [self._menu_item(line.menu_item_id, line.name) for line in message.items]
        assert message.table_number is not None
        table_id = self._set_table(message.table_number, {}, heard_at)
        customer = self._open_customer(table_id)
        self._insert(
            "order_",
            {
                "id": ids[0],
                "table_id": table_id,
                "customer_id": customer,
                "status": message.status or str(OrderStatus.PLACED),
                "priority": message.priority,
                "note": message.note,
                "timestamp": _moment(message, heard_at),
            },
        )
        for id, line, (menu_id, name, station) in zip(ids[1:], message.items, lines, strict=True):
            self._insert(
                "order_item",
                {
                    "id": id,
                    "order_id": ids[0],
                    "menu_item_id": menu_id,
                    "name": name,
                    "quantity": line.quantity,
                    "options": _json(line.options),
                    "note": line.note,
                    "station": station,
                },
            )

        return None

    def _move_order(self, message: OrderReport, order_id: int, heard_at: str) -> Entity | None:
        """Move an order on, and those of its items that are behind; return what is told of a word that comes too late."""
        row = self._execute(
            "SELECT status, timestamp, preparing_at, ready_at, served_at, recalled_at FROM order_ WHERE id = ?", (order_id,)
        ).fetchone()
        if row is None:
            raise InvalidPayload(f"unknown order {order_id}")
        current, said, moment = row[0], str(message.status), _moment(message, heard_at)
        items = self._execute("SELECT status, changed_at FROM order_item WHERE order_id = ?", (order_id,)).fetchall()
        steps = [*row[1:], *(changed_at for status, changed_at in items if status == current)]
        if order_steps.is_backwards(current, said) or self._is_before(message, steps, heard_at):
            return {"ignored": "stale", "current": current}
        behind = order_steps.steps_before(said) if said != current else ()
        changes: Entity = {}
        if behind:
            status = order_steps.with_items(said, [said if item in behind else item for item, _ in items])
            changes = {"status": status} | {_STAMPED_BY[step]: moment for step in (said, status) if step in _STAMPED_BY}
        if message.robot_id is not None:
            changes["robot_id"] = self._robot(message.robot_id, "ALBABOT", {}, heard_at, None)
        if changes and not self._update_if("order_", order_id, changes, "status", current):
            return self._move_order(message, order_id, heard_at)  # another program moved it meanwhile (Postgres)
        if behind:
            marks = ", ".join("?" * len(behind))
            self._execute(
                f"UPDATE order_item SET status = ?, changed_at = ? WHERE order_id = ? AND status IN ({marks})",
                (said, moment, order_id, *behind),
            )
        return None

    def _is_before(self, message: DeviceMessage, steps: Sequence[Any], heard_at: str) -> bool:
        """Return whether a device says that something happened before the newest of these times."""
        heard = times.to_epoch_s(heard_at)
        if message.ts is None or clock_is_off(message.ts, heard):
            return False
        said = times.to_epoch_s(times.to_text(message.ts))
        # What comes out of the spool was heard long ago. A step that lies ahead was stored by a clock that was wrong.
        latest = max(heard, time.time()) + CLOCK_AHEAD_S
        for text in map(self.db.time_text, steps):
            with contextlib.suppress(ValueError):  # a foreign program wrote something else
                if text is not None and said < times.to_epoch_s(text) <= latest:
                    return True
        return False

    def _menu_item(self, id: int | None, name: str | None) -> tuple[int, str, str | None]:
        row = self._by("SELECT id, name, station FROM menu_item", "menu_item", id, name)
        if row is None:
            raise InvalidPayload(f"unknown menu item {id if id is not None else name!r}")
        return (row[0], row[1], row[2])

    def _stock(self, message: StockReport, device: str, heard_at: str, ids: Sequence[int]) -> None:
        said = message.key if message.key is not None else message.name
        if message.msg_type == "Inventory":
            found = self._by("SELECT id, count, updated_at FROM inventory", "inventory", message.key, message.name)
            if found is None:
                raise InvalidPayload(f"unknown inventory {said!r}")
        else:
            ingredient = self._by("SELECT id, name FROM ingredient", "ingredient", message.key, message.name)
            if ingredient is None:
                raise InvalidPayload(f"unknown ingredient {said!r}")
            found = self._execute(
                "SELECT id, count, updated_at FROM inventory WHERE ingredient_id = ?", (ingredient[0],)
            ).fetchone()
            if found is None:
                columns = {"ingredient_id": ingredient[0], "name": ingredient[1], "count": message.count}
                self._insert("inventory", columns | {"max_count": max(100.0, message.count), "updated_at": heard_at})
                return
        id, count, updated_at = found
        if count != message.count:
            self._update("inventory", id, {"count": message.count, "updated_at": heard_at})
        elif _is_old(updated_at, heard_at):
            self._update("inventory", id, {"updated_at": heard_at})

    def _face(self, message: Face, device: str, heard_at: str, ids: Sequence[int]) -> None:
        certainty = message.reliability / 100 if message.reliability > 1 else message.reliability
        if certainty < PRESENCE_RELIABLE:
            self._set_table(message.table_id, {}, heard_at)
            return
        seen = int(message.nowdetected) if message.nowdetected is not None else 1
        here = message.exist and seen > 0
        row = self._execute("SELECT status FROM table_ WHERE table_number = ?", (message.table_id,)).fetchone()
        fields: Entity = {"customer_count": seen if here else 0}
        if here and (row is None or row[0] in ("AVAILABLE", "RESERVED", "CLEANING")):
            fields["status"] = str(TableStatus.OCCUPIED)
        elif not here and row is not None and row[0] in ("OCCUPIED", "CALLING"):
            fields["status"] = str(TableStatus.AVAILABLE)
        table_id = self._set_table(message.table_id, fields, heard_at)
        customer = self._open_customer(table_id)
        if here and customer is None:
            self._insert("customer", {"count": seen, "table_id": table_id, "arrived_at": heard_at})
        elif here:
            self._execute("UPDATE customer SET count = ? WHERE id = ? AND count < ?", (seen, customer, seen))
        elif customer is not None:
            self._execute("UPDATE customer SET left_at = ? WHERE id = ?", (heard_at, customer))

    def _open_customer(self, table_id: int) -> int | None:
        row = self._execute(
            "SELECT id FROM customer WHERE left_at IS NULL AND table_id = ? ORDER BY id DESC LIMIT 1", (table_id,)
        ).fetchone()
        return row[0] if row else None

    def _chatbot(self, message: Chatbot, device: str, heard_at: str, ids: Sequence[int]) -> None:
        robot = None
        if message.robot_id is not None:
            robot = self._robot(message.robot_id, "ALBABOT", {}, heard_at, None)
        columns = message.model_dump(include={"msg_id", "question", "robot_id", "robot_task", "response"})
        self._insert("chat_message", {"id": ids[0], "timestamp": heard_at} | columns)
        data = {"question": message.question, "response": message.response}
        self.event(ids[0], "CHATBOT", "INFO", "robot" if robot else None, robot, message.question, data, heard_at)

    def _log(self, message: Log, device: str, heard_at: str, ids: Sequence[int]) -> None:
        self._insert(
            "system_log",
            {
                "id": ids[0],
                "level": str(message.level),
                "source": device[:200],
                "message": message.message,
                "data": _json(message.data),
                "timestamp": _moment(message, heard_at),
            },
        )

    def _command_report(self, message: CommandReport, device: str, heard_at: str, ids: Sequence[int]) -> None:
        columns = message.model_dump(include={"command_id", "status", "progress"})
        columns |= {"id": ids[0], "kind": message.msg_type, "device": device, "result": _json(message.result)}
        self._insert("command_report", columns | {"timestamp": heard_at})

    # -- SQL -----------------------------------------------------------------------------------------------------

    def _by(self, select: str, table: str, id: int | None, name: str | None) -> Any:
        """Return the row of a thing that is named by its id, else by its name."""
        if id is not None:
            return self._execute(f"{select} WHERE id = ?", (id,)).fetchone()
        assert name is not None
        return self._find(f"{select} WHERE {_is_named(table)}", table, name)

    def _find(self, query: str, table: str, name: str) -> Any:
        """Return the row of a name: as it is said (NFC), else as another program spelled it.

        An index knows bytes only, and no function of ours may stand in it (SPEC section 2), so a name that is not found is
        looked for among all of its table; what was found is remembered.
        """
        columns = len(_NAME_COLUMNS[table])
        row = self._execute(query, (name,) * columns).fetchone()
        if row is not None or name.isascii():
            return row
        spelling = self._spellings.get((table, name))
        if spelling is not None:
            row = self._execute(query, (spelling,) * columns).fetchone()
        if row is None and (spelling := self._spelling(table, name)) is not None:
            if len(self._spellings) > MAX_NOTED:
                self._spellings.clear()
            self._spellings[table, name] = spelling
            row = self._execute(query, (spelling,) * columns).fetchone()
        return row

    def _spelling(self, table: str, name: str) -> str | None:
        columns = _NAME_COLUMNS[table]
        rows = self.db.select(f"SELECT {', '.join(columns)} FROM {table} ORDER BY id")
        return next((text for row in rows for text in row if text is not None and nfc(text) == name), None)

    def _make_room(self, table: str) -> None:
        (count,) = self._execute(f"SELECT count(*) FROM {table}").fetchone()
        if count >= MAX_MENTIONED:
            what = table.rstrip("_")
            raise InvalidPayload(f"{MAX_MENTIONED} {what}s are known already; add another one in the database")

    def _insert(self, table: str, columns: Entity) -> int:
        names = ", ".join(columns)
        marks = ", ".join("?" * len(columns))
        id = self._execute(f"INSERT INTO {table}({names}) VALUES ({marks}) RETURNING id", tuple(columns.values())).fetchone()
        return int(id[0])

    def _update(self, table: str, id: int, columns: Entity) -> None:
        sets = ", ".join(f"{name} = ?" for name in columns)
        self._execute(f"UPDATE {table} SET {sets} WHERE id = ?", (*columns.values(), id))

    def _update_if(self, table: str, id: int, columns: Entity, name: str, value: Any) -> bool:
        """Update a row where a column still holds a value; return whether it does."""
        sets = ", ".join(f"{name} = ?" for name in columns)
        done = self._execute(f"UPDATE {table} SET {sets} WHERE id = ? AND {name} = ?", (*columns.values(), id, value))
        return bool(done.rowcount)


def _state_of(message: DeviceMessage) -> tuple[str, Any] | None:
    """Return the table and key of the thing whose state a message reports; None for what is no report of state."""
    if isinstance(message, RobotReport):
        return "robot", message.robot_id
    if isinstance(message, TableReport):
        return "table_", message.table_number
    if isinstance(message, Face):
        return "table_", message.table_id
    if isinstance(message, StockReport):
        table = "inventory" if message.msg_type == "Inventory" else "ingredient"
        return table, message.key if message.key is not None else message.name
    return None


def told_of_letter(id: int, state: str, retry_in_s: int | None) -> Entity:
    """Return what a device is told of its message's dead letter."""
    told: Entity = {"dead_letter": id, "state": state}
    return told if retry_in_s is None or state != "RETRYING" else told | {"retry_in_s": retry_in_s}


def row_of_claim(db: DbConnection, device: str, id: str, digest: str, age_s: int | None = None) -> int | None:
    """Return the id of the row that a message made when it came first; None where it never came.

    Args:
        age_s: of the database, which says when a letter is tried again; None where it is not known.
    Raises:
        Conflict: the id was used for another body.
        DeadLettered: what it was used for could not be stored.
    """
    taken = db.execute('SELECT body, "row" FROM device_message WHERE device = ? AND id = ?', (device, id)).fetchone()
    if taken is None:
        return None
    body, row = taken
    if body != digest:
        raise other_body(id)
    letter = db.execute(
        "SELECT id, state, retry_age_s FROM dead_letter WHERE device = ? AND message_id = ?", (device, id)
    ).fetchone()
    if letter:
        known, state, retry_age_s = letter
        due_s = None if age_s is None or retry_age_s is None else max(0, retry_age_s - age_s)
        raise DeadLettered(**told_of_letter(known, state, due_s))
    return int(row)


def other_body(id: str) -> Conflict:
    """Return the refusal of a message whose id another one took."""
    return Conflict(f"id {id!r} was already used for another message")


def details(message: DeviceMessage, ids: Sequence[int]) -> Entity | None:
    """Return what the answer tells besides success: the id of the row that the message made."""
    if isinstance(message, EventReport | Chatbot):
        return {"event_id": ids[0]}
    if isinstance(message, OrderReport):
        return {"order_id": message.order_id or ids[0]}
    return {"left_out": list(message.left_out)} if message.left_out else None


def ids_needed(message: DeviceMessage) -> int:
    """Return how many server-given ids the rows of a message take."""
    return 1 + len(message.items) if isinstance(message, OrderReport) else 1


def _is_named(table: str) -> str:
    """Return the condition for a thing that is named, in either language where it has two."""
    return " OR ".join(f"{column} = ?" for column in _NAME_COLUMNS[table])


def _json(value: Any) -> str | None:
    return None if value is None else orjson.dumps(value).decode()


def _moment(message: DeviceMessage, heard_at: str) -> str:
    """Return when it happened: the device's own time where its clock can be meant, else when we heard it."""
    if message.ts is None or clock_is_off(message.ts, times.to_epoch_s(heard_at)):
        return heard_at
    return times.to_text(message.ts)


def _is_old(stored: str | None, heard_at: str) -> bool:
    """Return whether a time is to be stored anew; one that lies ahead was stored by a clock that was wrong."""
    if not stored:
        return True
    try:
        return not 0 <= times.to_epoch_s(heard_at) - times.to_epoch_s(stored) < QUIET_INTERVAL_S
    except ValueError:
        return True  # a foreign program wrote something else: put it right
