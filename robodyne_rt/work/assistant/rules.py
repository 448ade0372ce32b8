"""An assistant without a model: a few rules over the live state, in Korean and English.

It knows robots, tables, orders, stock and events. Where a name fits several robots it asks the person; what it does not know
it asks the client for, if the client said that it can; otherwise it says so. Implements `ports.Answerer`.
"""

import math
import re
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from robodyne_rt.model import times
from robodyne_rt.model.changes import Entity
from robodyne_rt.ports import CannotAsk, Conversation, NoReply, Restaurant
from robodyne_rt.protocol.errors import StorageUnavailable
from robodyne_rt.work.assistant.imperatives import is_imperative, is_plain
from robodyne_rt.work.assistant.language import Code, age, josa, language_of, normalized, number, word
from robodyne_rt.work.assistant.names import Named, is_mentioned, named, table_named

T = TypeVar("T")

ORDER_LATE_S = 480.0
"""Age at which an order is late; the same as on the screens."""

NEAR_M = 1.5
LOW_BATTERY = 20.0
MAX_LISTED = 8
WINDOW_MIN = 30
MAX_WINDOW_MIN = 24 * 60
MAX_OPTIONS = 12

_OPEN = ("PLACED", "PREPARING", "READY", "SERVING")

# What a question is about, most telling words first; a word of Latin letters must stand alone or begin a word.
_TOPICS: tuple[tuple[str, str], ...] = (
    ("help", r"^\W*(?:안녕|도움|뭘 할 수|hi\b|hello\b|help\b|what can you)"),
    ("robots", r"배터리|방전|로봇|\bbatter|\bcharging\b|\brobots?\b"),
    ("events", r"무슨\s*일|있었|최근|지난|사건|알림|이벤트|\bhappen|\bevents?\b|\balerts?\b|\bthe last \d|\bpast \d"),
    (
        "stock",
        r"재고|재료|부족|떨어|사야|품절|\bout of\b|\bto buy\b|"
        r"\bstock|\binventor|\bingredient|\brunning (?:low|out)|\bshort(?:age)?\b",
    ),
    ("orders", r"주문|늦|지연|밀렸|밀린|다음에|뭐 시켰|\bnext\b|\borders?\b|\blate\b|\bdelayed|\boverdue"),
    (
        "tables",
        r"테이블|호출|부르|불렀|기다|손님|자리|\btables?\b|\bseats?\b|\bcall(?:s|ing)?\b|\bwait(?:s|ing)?\b|\bguests?\b",
    ),
    ("robots", r"어디|상태|\bwhere\b|\bhow is\b"),
    (
        "troubles",
        r"문제|괜찮|이상|비상|도와|\bproblems?\b|\bwrong\b|\bbehind\b|\bneeds? help\b|\b(?:everything|all) (?:ok|fine|well)",
    ),
)
_TOPIC_READ = {"events": "events", "stock": "inventory", "orders": "orders", "tables": "tables", "robots": "robots"}

_FREE = re.compile(r"빈|비어|자리|\b(?:free|available|empty)\b")
_LOWEST = re.compile(r"(?:가장|제일|\blowest\b|\bleast\b)")
_LOW_BATTERY = re.compile(
    r"배터리.*(?:부족|낮|없|모자|약)|(?:부족|낮은|방전).*(?:배터리|로봇)|충전.*(?:필요|해야)|"
    r"\blow\b.*batter|batter\w*.*\blow\b|\bneeds? charging\b"
)
_BROKEN = re.compile(r"고장|오류|에러|비상|\berrors?\b|\bbroken\b|\bfault|\bemergency\b")
_HOW_MANY = re.compile(r"몇|\bhow many\b")
_AWAY = re.compile(r"끊긴|끊어|연결 안|꺼진|\bdisconnected\b|\boffline\b|\bunreachable\b")

# What people say besides numbers; the first that fits counts.
_SPANS = (
    (r"반\s*시간|half an hour", 30),
    (r"두\s*시간|two hours|couple of hours", 120),
    (r"세\s*시간|three hours", 180),
    (r"한\s*시간|(?:last|past|an|one) hour", 60),
    (r"오늘|today|tonight|this evening", 720),
)

_DOING = (
    ("SERVING", r"서빙\s*(?:중|하)|\b(?:are|is|who's) serving\b"),
    ("COOKING", r"(?:조리|요리)\s*(?:중|하)|\b(?:are|is) cooking\b"),
    ("CHARGING", r"충전|\bcharging\b"),
    ("IDLE", r"(?:대기|쉬|노)\s*(?:중|는|고)|\b(?:idle|free)\b"),
    ("CLEANING", r"청소|\bcleaning\b"),
)

_MINUTES = re.compile(r"(\d{1,4})\s*(분|시간|minutes?|mins?|hours?|h\b|m\b)")


class _Question:
    """One question, and the state that it is answered from: rights are derived and topics read once. Who waited for a client
    looks again."""

    def __init__(self, conversation: Conversation, restaurant: Restaurant) -> None:
        self.text = normalized(conversation.question)
        self.code = language_of(self.text)
        self.meant = Named([])
        self._conversation = conversation
        self._restaurant = restaurant
        self._state: dict[str, list[Entity]] = {}
        self._rights: dict[str, bool] = {}

    async def state(self, topic: str) -> list[Entity]:
        """Return a topic's entities as they are now."""
        if topic not in self._state:
            self._state[topic] = await self._restaurant.entities(topic)
        return self._state[topic]

    def may_read(self, topic: str) -> bool:
        """Return whether who asks may see a topic."""
        if topic not in self._rights:
            self._rights[topic] = self._conversation.may_read(topic)
        return self._rights[topic]

    async def clarify(self, question: str, options: list[str]) -> str:
        """Return what the person says."""
        return await self._waited(self._conversation.clarify(question, options))

    async def available_data(self) -> list[Any]:
        """Return what the client says it has."""
        return await self._waited(self._conversation.available_data(self._conversation.question))

    async def api(self, name: str) -> Any:
        """Return what the client got from one of its own sources."""
        return await self._waited(self._conversation.api(name, {"question": self._conversation.question}))

    async def _waited(self, waiting: Awaitable[T]) -> T:
        """Wait for the client; what was read before is old then."""
        try:
            return await waiting
        finally:
            self._state, self._rights = {}, {}

    def say(self, korean: str, english: str) -> str:
        """Return a text in the language of the question."""
        return korean if self.code == "ko" else english


class RulesAssistant:
    """Answers from the state of a restaurant."""

    def __init__(self, restaurant: Restaurant) -> None:
        self._restaurant = restaurant
        self._handlers: dict[str, Callable[[_Question], Awaitable[str]]] = {
            "events": self._events,
            "stock": self._stock,
            "orders": self._orders,
            "tables": self._tables,
            "robots": self._robots,
            "troubles": self._troubles,
            "help": self._help,
            "doubt": self._doubt,
        }

    async def answer(self, conversation: Conversation) -> str:
        q = _Question(conversation, self._restaurant)
        if is_imperative(q.text):
            return _refusal(q)
        topic = await self._topic(q)
        if topic is None:
            return await self._ask_elsewhere(q)
        if topic in _TOPIC_READ and not q.may_read(_TOPIC_READ[topic]):
            return _forbidden(q)
        try:
            return await self._handlers[topic](q)
        except StorageUnavailable:
            return q.say("지금은 저장소를 읽을 수 없습니다.", "That cannot be looked up now: the database is away.")

    async def _topic(self, q: _Question) -> str | None:
        """Return what a question is about: what happened, a robot that is named in full, then what its words say; a name
        alone is enough."""
        robots = await q.state("robots") if q.may_read("robots") else []
        q.meant = meant = named(q.text, robots)
        matches = [topic for topic, pattern in _TOPICS if re.search(pattern, q.text)]
        if meant.in_full and not matches and not is_plain(q.text, meant.rest):
            return "doubt"
        if "events" not in matches and meant.in_full:
            return "robots"
        if matches:
            return "events" if "events" in matches else matches[0]
        if meant.robots or meant.unknown:
            return "robots"
        stock = await q.state("inventory") if q.may_read("inventory") else []
        return "stock" if any(is_mentioned(item["name"], q.text) for item in stock) else None

    async def _doubt(self, q: _Question) -> str:
        """Refuse what may be an order to a robot, in words that are not known."""
        return _refusal(q)

    # -- robots --------------------------------------------------------------------------------------------------

    async def _robots(self, q: _Question) -> str:
        robots = await q.state("robots")
        if not robots:
            return q.say("아직 알려진 로봇이 없습니다.", "No robot is known yet.")
        meant = q.meant
        if meant.unknown or meant.is_certain:
            lines = [await self._robot(robot, q) for robot in meant.robots[:MAX_LISTED]]
            return "\n".join([*lines, _unknown_robots(meant.unknown, robots, q)] if meant.unknown else lines)
        if (table := table_named(q.text)) is not None:
            return await self._near_table(table, robots, q)
        if _AWAY.search(q.text):
            away = [await self._robot(robot, q) for robot in robots if robot["link"] != "ONLINE"]
            return "\n".join(away[:MAX_LISTED]) or q.say("모든 로봇이 연결되어 있습니다.", "All robots are online.")
        if _LOWEST.search(q.text) or _LOW_BATTERY.search(q.text):
            return await self._low_battery(robots, q)
        if _BROKEN.search(q.text):
            broken = [await self._robot(robot, q) for robot in robots if _is_broken(robot)]
            return "\n".join(broken[:MAX_LISTED]) or q.say("고장 난 로봇이 없습니다.", "No robot is in trouble.")
        if doing := [status for status, pattern in _DOING if re.search(pattern, q.text)]:
            return self._doing(robots, doing, q)
        if meant.robots:
            return await self._which_robot(meant.robots, q)
        return self._fleet(robots, q)

    async def _near_table(self, table: int, robots: list[Entity], q: _Question) -> str:
        """Say which robots are near a table."""
        if q.may_read("tables") and all(other["table_number"] != table for other in await q.state("tables")):
            return _no_table(table, q)
        places = {robot["robot_id"]: await self._near(robot, q) for robot in robots}
        near = [robot for robot in robots if places[robot["robot_id"]] == table]
        if not near:
            return q.say(f"테이블 {table} 근처에 로봇이 없습니다.", f"No robot is near table {table}.")
        return "\n".join([await self._robot(robot, q) for robot in near[:MAX_LISTED]])

    async def _low_battery(self, robots: list[Entity], q: _Question) -> str:
        """Say whose battery is low, or which one is the lowest; of those that can be reached, where there are any."""
        told = [robot for robot in robots if robot["battery_level"] is not None]
        told = [robot for robot in told if robot["link"] == "ONLINE"] or told
        if not told:
            return q.say("배터리를 알려 준 로봇이 없습니다.", "No robot has told its battery.")
        told.sort(key=lambda robot: robot["battery_level"])
        low = [robot for robot in told if robot["battery_level"] < LOW_BATTERY]
        if _LOWEST.search(q.text) or len(low) == 1:
            return await self._robot(told[0], q)
        if not low:
            least = await self._robot(told[0], q)
            lead = q.say("배터리가 부족한 로봇은 없습니다. 가장 낮은 로봇:", "No battery is low. The lowest:")
            return f"{lead} {least}"
        listed = ", ".join(f"{robot['robot_id']} {number(robot['battery_level'])}%" for robot in low[:MAX_LISTED])
        return q.say(f"배터리 부족 {len(low)}대: {listed}.", f"{len(low)} robots have a low battery: {listed}.")

    def _doing(self, robots: list[Entity], statuses: list[str], q: _Question) -> str:
        """Say which robots do something."""
        parts = []
        for status in statuses:
            names = [robot["robot_id"] for robot in robots if robot["status"] == status and robot["link"] == "ONLINE"]
            listed = ", ".join(sorted(names)[:MAX_OPTIONS]) or q.say("없음", "none")
            parts.append(f"{word('robot', status, q.code)} {len(names)}: {listed}.")
        return " ".join(parts)

    async def _which_robot(self, found: list[Entity], q: _Question) -> str:
        options = [robot["robot_id"] for robot in found[:MAX_OPTIONS]]
        question = q.say("어느 로봇을 말씀하시나요?", "Which robot do you mean?")
        try:
            reply = normalized(await q.clarify(question, options))
        except CannotAsk as error:
            all_of_them = [await self._robot(robot, q) for robot in found[:MAX_LISTED]]
            lead = q.say("어느 로봇인지 몰라 모두 알려 드립니다.", "I do not know which one you mean, so here are all of them.")
            if isinstance(error, NoReply):
                lead = f"{_no_reply(q)} {lead}"
            return "\n".join([lead, *all_of_them])
        if not q.may_read("robots"):
            return _forbidden(q)
        options_now = {robot["id"]: robot for robot in await q.state("robots")}
        found = [options_now.get(robot["id"], robot) for robot in found]
        chosen = [robot for robot in found if _squeezed(robot["robot_id"]) == _squeezed(reply)] or named(reply, found).robots
        if not chosen and reply.strip().isdigit() and 1 <= int(reply) <= len(options):
            chosen = [found[int(reply) - 1]]
        if len(chosen) == 1:
            return await self._robot(chosen[0], q)
        rest = chosen or found
        return "\n".join([await self._robot(robot, q) for robot in rest[:MAX_LISTED]])

    async def _robot(self, robot: Entity, q: _Question) -> str:
        name = robot["robot_id"]
        state = word("robot", robot["status"], q.code)
        battery = robot["battery_level"]
        place = await self._place(robot, q)
        if robot["link"] != "ONLINE":
            silent = self._age(robot["last_seen"], q.code)
            link = word("link", robot["link"], q.code)
            return q.say(
                f"{josa(name, '은/는')} {link} 상태입니다. 마지막 소식은 {silent} 전, {state}, {place}.",
                f"{name} is not reachable ({link}). Last heard {silent} ago: {state}, {place}.",
            )
        charge = "" if battery is None else q.say(f" 배터리 {number(battery)}%.", f" Battery {number(battery)} %.")
        return q.say(f"{josa(name, '은/는')} {place}, {state}입니다.{charge}", f"{name} is {place}, {state}.{charge}")

    async def _place(self, robot: Entity, q: _Question) -> str:
        x, y = robot["x"], robot["y"]
        if x is None or y is None:
            return q.say("위치 모름", "at an unknown place")
        where = f"({number(x)}, {number(y)})"
        if (table := await self._near(robot, q)) is not None:
            return q.say(f"테이블 {table} 근처 {where}", f"near table {table} {where}")
        return q.say(f"위치 {where}", f"at {where}")

    async def _near(self, robot: Entity, q: _Question) -> int | None:
        """Return the number of the table that a robot is at."""
        x, y = robot["x"], robot["y"]
        tables = await q.state("tables") if q.may_read("tables") else []
        near = [
            (math.hypot(table["x"] - x, table["y"] - y), table["table_number"])
            for table in tables
            if None not in (x, y, table["x"], table["y"])
        ]
        return min(near)[1] if near and min(near)[0] <= NEAR_M else None

    def _fleet(self, robots: list[Entity], q: _Question) -> str:
        online = [robot for robot in robots if robot["link"] == "ONLINE"]
        states = Counter(robot["status"] for robot in online)
        doing = ", ".join(f"{word('robot', status, q.code)} {count}" for status, count in states.most_common())
        away = [robot["robot_id"] for robot in robots if robot["link"] != "ONLINE"][:MAX_LISTED]
        low = [
            f"{robot['robot_id']} {number(robot['battery_level'])}%"
            for robot in online
            if robot["battery_level"] is not None and robot["battery_level"] < LOW_BATTERY
        ][:MAX_LISTED]
        parts = [
            q.say(
                f"로봇 {len(robots)}대 중 {len(online)}대가 연결되어 있습니다: {doing or '없음'}.",
                f"{len(online)} of {len(robots)} robots are online: {doing or 'none'}.",
            )
        ]
        if away:
            parts.append(q.say(f"연결 안 됨: {', '.join(away)}.", f"Not reachable: {', '.join(away)}."))
        if low:
            parts.append(q.say(f"배터리 부족: {', '.join(low)}.", f"Low battery: {', '.join(low)}."))
        return " ".join(parts)

    # -- tables --------------------------------------------------------------------------------------------------

    async def _tables(self, q: _Question) -> str:
        tables = await q.state("tables")
        if (asked := table_named(q.text)) is not None:
            return await self._table(asked, tables, q)
        if _FREE.search(q.text):
            free = sorted(table["table_number"] for table in tables if table["status"] == "AVAILABLE")
            listed = ", ".join(map(str, free[:MAX_OPTIONS])) or q.say("없음", "none")
            return q.say(f"빈 테이블 {len(free)}개: {listed}.", f"{_tables_are(len(free))} free: {listed}.")
        if re.search(r"손님|\bguests?\b|\bpeople\b", q.text):
            guests = sum(table["customer_count"] for table in tables)
            seated = sum(table["customer_count"] > 0 for table in tables)
            return q.say(f"손님 {guests}명이 테이블 {seated}개에 있습니다.", f"{guests} guests are here, at {seated} tables.")
        calling = sorted((t for t in tables if t["status"] == "CALLING"), key=lambda table: table["updated_at"] or "")
        parts = []
        if calling:
            listed = ", ".join(
                q.say(
                    f"테이블 {table['table_number']} ({self._age(table['updated_at'], q.code)})",
                    f"table {table['table_number']} ({self._age(table['updated_at'], q.code)})",
                )
                for table in calling[:MAX_LISTED]
            )
            parts.append(q.say(f"호출 중 {len(calling)}곳: {listed}.", f"{len(calling)} calling: {listed}."))
        else:
            parts.append(q.say("호출 중인 테이블이 없습니다.", "No table is calling."))
        if q.may_read("orders"):
            parts.append(await self._longest_waiting(tables, q))
        occupied = sum(table["status"] in ("OCCUPIED", "CALLING") for table in tables)
        parts.append(
            q.say(f"테이블 {len(tables)}개 중 {occupied}개 사용 중.", f"{occupied} of {_tables_are(len(tables))} taken.")
        )
        return " ".join(parts)

    async def _table(self, wanted: int, tables: list[Entity], q: _Question) -> str:
        """Say how one table is, and what it waits for."""
        table = next((table for table in tables if table["table_number"] == wanted), None)
        if table is None:
            return _no_table(wanted, q)
        state, guests = word("table", table["status"], q.code), table["customer_count"]
        parts = [q.say(f"테이블 {wanted}: {state}, 손님 {guests}명.", f"Table {wanted}: {state}, {guests} guests.")]
        if q.may_read("orders"):
            orders = await q.state("orders")
            mine = [order for order in orders if order["table_id"] == table["id"] and order["status"] in _OPEN]
            listed = "; ".join(self._order(order, {}, q) for order in mine[:MAX_LISTED])
            parts.append(
                q.say(f"주문: {listed}.", f"Orders: {listed}.") if mine else q.say("열린 주문이 없습니다.", "No order is open.")
            )
        return " ".join(parts)

    async def _longest_waiting(self, tables: list[Entity], q: _Question) -> str:
        numbers = {table["id"]: table["table_number"] for table in tables}
        waiting: dict[int, str] = {}
        for order in await q.state("orders"):
            if order["status"] in _OPEN and order["table_id"] in numbers:
                table = numbers[order["table_id"]]
                waiting[table] = min(waiting.get(table, order["timestamp"]), order["timestamp"])
        if not waiting:
            return q.say("음식을 기다리는 테이블이 없습니다.", "No table is waiting for food.")
        longest = sorted(waiting.items(), key=lambda item: item[1])[:3]
        listed = ", ".join(
            q.say(f"테이블 {table} ({self._age(since, q.code)})", f"table {table} ({self._age(since, q.code)})")
            for table, since in longest
        )
        return q.say(f"음식을 가장 오래 기다리는 곳: {listed}.", f"Waiting longest for food: {listed}.")

    # -- orders, stock, events -----------------------------------------------------------------------------------

    async def _orders(self, q: _Question) -> str:
        numbers = {}
        if q.may_read("tables"):
            numbers = {table["id"]: table["table_number"] for table in await q.state("tables")}
        orders = [order for order in await q.state("orders") if order["status"] in _OPEN]
        if (asked := table_named(q.text)) is not None and q.may_read("tables"):
            return await self._table(asked, await q.state("tables"), q)
        orders.sort(key=lambda order: order["timestamp"])
        late = [order for order in orders if self._seconds(order["timestamp"]) >= ORDER_LATE_S]
        if not orders:
            return q.say("열린 주문이 없습니다.", "No order is open.")
        if _HOW_MANY.search(q.text):
            return q.say(
                f"열린 주문 {len(orders)}건, 그중 늦은 주문 {len(late)}건.",
                f"{len(orders)} order{'s are' if len(orders) != 1 else ' is'} open, {len(late)} of them late.",
            )
        if not late:
            first = "; ".join(self._order(order, numbers, q) for order in orders[:3])
            return q.say(
                f"열린 주문 {len(orders)}건, 늦은 주문은 없습니다. 가장 오래된 주문: {first}.",
                f"{len(orders)} orders are open, none of them is late. The oldest: {first}.",
            )
        listed = "; ".join(self._order(order, numbers, q) for order in late[:MAX_LISTED])
        return q.say(
            f"열린 주문 {len(orders)}건 중 {len(late)}건이 늦었습니다: {listed}.",
            f"{len(late)} of {len(orders)} open orders are late: {listed}.",
        )

    def _order(self, order: Entity, numbers: dict[int, int], q: _Question) -> str:
        table = numbers.get(order["table_id"])
        dishes = ", ".join(f"{item['name']} {item['quantity']}" for item in order["items"][:4])
        state, since = word("order", order["status"], q.code), self._age(order["timestamp"], q.code)
        where = q.say(f"테이블 {table} ", f"table {table} ") if table is not None else ""
        return f"{where}({since}, {state}) {dishes}".strip()

    async def _stock(self, q: _Question) -> str:
        stock = await q.state("inventory")
        if asked := [item for item in stock if is_mentioned(item["name"], q.text)]:
            listed = ", ".join(
                f"{item['name']} {number(item['count'])}/{number(item['max_count'])} ({_stock_word(item, q.code)})"
                for item in asked[:MAX_LISTED]
            )
            return q.say(f"재고: {listed}.", f"In stock: {listed}.")
        low = [item for item in stock if item["status"] != "IN_STOCK"]
        if not low:
            return q.say("부족한 재고가 없습니다.", "Nothing is running low.")
        listed = ", ".join(f"{i['name']} {number(i['count'])} ({_stock_word(i, q.code)})" for i in low[:MAX_LISTED])
        return q.say(f"재고 {len(low)}가지가 부족합니다: {listed}.", f"{len(low)} ingredients run low: {listed}.")

    async def _events(self, q: _Question) -> str:
        minutes = _minutes(q.text)
        events = await self._restaurant.events_since(self._restaurant.wall() - 60 * minutes)
        span = age(60 * minutes, q.code)
        if not events:
            return q.say(f"지난 {span} 동안 아무 일도 없었습니다.", f"Nothing happened in the last {span}.")
        kinds = Counter(word("event", event["type"], q.code) for event in events)
        counts = ", ".join(f"{kind} {count}" for kind, count in kinds.most_common(6))
        names = await self._names(q)
        lines = []
        for event in events[:MAX_LISTED]:
            ago, kind = self._age(event["timestamp"], q.code), word("event", event["type"], q.code)
            about = names.get((event["related_entity_type"], event["related_entity_id"]), "")
            text = (event["description"] or "").strip().replace("\n", " ")[:120]
            said = " ".join(part for part in (kind, about if about not in text else "", text) if part)
            lines.append(q.say(f"- {ago} 전 {said}", f"- {ago} ago {said}"))
        lead = q.say(
            f"지난 {span} 동안 {len(events)}건: {counts}.",
            f"{len(events)} event{'s' * (len(events) != 1)} in the last {span}: {counts}.",
        )
        return "\n".join([lead, *lines])

    async def _names(self, q: _Question) -> dict[tuple[str | None, int | None], str]:
        """Return what the tables and robots that events are about are called."""
        names: dict[tuple[str | None, int | None], str] = {}
        if q.may_read("tables"):
            for table in await q.state("tables"):
                names["table", table["id"]] = q.say(f"테이블 {table['table_number']}", f"table {table['table_number']}")
        if q.may_read("robots"):
            names |= {("robot", robot["id"]): robot["robot_id"] for robot in await q.state("robots")}
        return names

    async def _troubles(self, q: _Question) -> str:
        """Say all that somebody should look after."""
        found = []
        if q.may_read("robots"):
            for robot in await q.state("robots"):
                if _is_broken(robot):
                    found.append(await self._robot(robot, q))
        if q.may_read("tables"):
            calling = [t["table_number"] for t in await q.state("tables") if t["status"] == "CALLING"]
            if calling:
                listed = ", ".join(map(str, sorted(calling)[:MAX_OPTIONS]))
                found.append(q.say(f"호출 중인 테이블: {listed}.", f"Tables calling: {listed}."))
        if q.may_read("orders"):
            orders = [order for order in await q.state("orders") if order["status"] in _OPEN]
            if late := sum(self._seconds(order["timestamp"]) >= ORDER_LATE_S for order in orders):
                found.append(q.say(f"늦은 주문 {late}건.", f"{late} orders are late."))
        if q.may_read("inventory"):
            low = [item["name"] for item in await q.state("inventory") if item["status"] != "IN_STOCK"]
            if low:
                listed = ", ".join(low[:MAX_LISTED])
                found.append(q.say(f"부족한 재고: {listed}.", f"Running low: {listed}."))
        return "\n".join(found[:MAX_OPTIONS]) or q.say("문제가 없습니다.", "All is well, as far as I can see.")

    async def _help(self, q: _Question) -> str:
        return q.say(
            "로봇의 위치와 상태, 호출하거나 기다리는 테이블, 늦은 주문, 부족한 재고, 최근에 있었던 일을 물어보세요.",
            "Ask me where a robot is and how it does, which tables call or wait, which orders are late, what runs low, or what "
            "happened lately.",
        )

    # -- what is not known here ----------------------------------------------------------------------------------

    async def _ask_elsewhere(self, q: _Question) -> str:
        """Ask the client for what it has, choose, and get it."""
        try:
            sources = _sources(await q.available_data())
        except NoReply:
            return _no_reply(q)
        except CannotAsk:
            return _unknown(q)
        if not sources:
            return q.say(
                "그것은 제가 모르고, 앱에도 쓸 수 있는 데이터가 없습니다.",
                "I do not know that, and your app has no data on it either.",
            )
        chosen = [source for source in sources if _fits(source, q.text)]
        if not chosen:
            known = ", ".join(source["name"] for source in sources[:MAX_OPTIONS])
            return q.say(f"그것은 모릅니다. 앱에 있는 데이터: {known}.", f"I do not know that. Your app has data on: {known}.")
        if len(chosen) != 1:
            names = [source["name"] for source in chosen][:MAX_OPTIONS]
            question = q.say("어느 데이터를 볼까요?", "Which data shall I look at?")
            try:
                reply = await q.clarify(question, names)
            except CannotAsk as error:
                listed = ", ".join(names)
                which = q.say(f"어느 것인지 알려 주세요: {listed}.", f"Please say which one you mean: {listed}.")
                return f"{_no_reply(q)} {which}" if isinstance(error, NoReply) else which
            chosen = [source for source in sources if _squeezed(source["name"]) == _squeezed(reply)]
            chosen = chosen or [source for source in sources if _fits(source, reply)]
            if not chosen:
                return _unknown(q)
        name = chosen[0]["name"]
        try:
            result = await q.api(name)
        except CannotAsk:
            return q.say(f"앱이 '{name}' 데이터를 제때 주지 않았습니다.", f"Your app did not give me '{name}' in time.")
        text = _plain(result)
        if not text:
            return q.say(f"'{name}' 데이터가 비어 있습니다.", f"'{name}' is empty.")
        return f"{name}: {text}"

    # -- ages ----------------------------------------------------------------------------------------------------

    def _seconds(self, since: str | None) -> float:
        try:
            return self._restaurant.wall() - times.to_epoch_s(since) if since else 0.0
        except ValueError:
            return 0.0

    def _age(self, since: str | None, code: Code) -> str:
        return age(self._seconds(since), code)


def _is_broken(robot: Entity) -> bool:
    return robot["link"] != "ONLINE" or robot["status"] in ("ERROR", "EMERGENCY", "MAINTENANCE")


def _tables_are(count: int) -> str:
    return "1 table is" if count == 1 else f"{count} tables are"


def _refusal(q: _Question) -> str:
    return q.say(
        "그렇게 할 수 없습니다. 저는 질문에 답하기만 하며, 로봇에게 아무 명령도 전달되지 않았습니다. "
        "로봇을 바로 멈추려면 로봇의 빨간 버튼(비상 정지)을 누르세요.",
        "I cannot do that: I only answer questions, and no command went to any robot. "
        "To stop a robot at once, press the red button on it (emergency stop).",
    )


def _forbidden(q: _Question) -> str:
    return q.say("그 정보를 볼 권한이 없습니다.", "You may not see that.")


def _unknown_robots(names: tuple[str, ...], robots: list[Entity], q: _Question) -> str:
    known = ", ".join(sorted(robot["robot_id"] for robot in robots)[:MAX_LISTED])
    strange = ", ".join(f"'{name}'" for name in names[:MAX_LISTED])
    return q.say(
        f"{strange}에 맞는 로봇이 없습니다. 알려진 로봇: {known}.", f"No robot is called {strange}. Known robots: {known}."
    )


def _no_table(table: int, q: _Question) -> str:
    return q.say(f"테이블 {table}번이 없습니다.", f"There is no table {table}.")


def _unknown(q: _Question) -> str:
    return q.say(
        "그것은 모릅니다. 로봇, 테이블, 주문, 재고, 최근에 있었던 일을 물어보세요.",
        "I do not know that. Ask me about robots, tables, orders, stock, or what happened lately.",
    )


def _no_reply(q: _Question) -> str:
    return q.say("물어봤지만 제때 아무도 답하지 않았습니다.", "I asked, and nobody answered in time.")


def _stock_word(item: Entity, code: Code) -> str:
    return word("stock", item["status"], code)


def _squeezed(text: str) -> str:
    """Return a text without what people leave out: case, spaces, hyphens."""
    return re.sub(r"[\s_\-]+", "", text.lower())


def _minutes(text: str) -> int:
    """Return how far back a question looks: `지난 1시간 30분` is 90."""
    text = text.lower()
    amounts = [int(amount) * (60 if unit.startswith(("시간", "h")) else 1) for amount, unit in _MINUTES.findall(text)]
    amounts += [minutes for pattern, minutes in _SPANS if not amounts and re.search(pattern, text)][:1]
    return max(1, min(MAX_WINDOW_MIN, sum(amounts) or WINDOW_MIN))


def _sources(data: list[Any]) -> list[Entity]:
    """Return what a client says it has, as `{name, words}`."""
    found = []
    for item in data[:100]:
        entry = {"name": item} if isinstance(item, str) else item
        if isinstance(entry, dict) and isinstance(name := entry.get("name"), str) and 0 < len(name) <= 100:
            keywords = entry.get("keywords")
            words = [name, str(entry.get("description") or ""), *(keywords if isinstance(keywords, list) else [])]
            found.append(
                {"name": name, "words": [part for text in words for part in re.split(r"[\s,_./-]+", str(text).lower())]}
            )
    return found


def _fits(source: Entity, question: str) -> bool:
    text = question.lower()
    return any(len(part) >= 2 and part in text for part in source["words"])


def _plain(value: Any, depth: int = 0) -> str:
    """Return what a client's API gave as text for people."""
    if value is None or value in ([], {}):
        return ""
    if isinstance(value, dict):
        parts = (f"{key} {_plain(item, depth + 1)}" for key, item in list(value.items())[:12])
        return ", ".join(part.strip() for part in parts)[:1000]
    if isinstance(value, list):
        parts = (_plain(item, depth + 1) for item in value[:MAX_LISTED])
        return ("; " if depth == 0 else ", ").join(part for part in parts if part)[:1000]
    return str(value)[:1000]
