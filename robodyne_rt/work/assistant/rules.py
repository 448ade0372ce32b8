"""An assistant without a model: a few rules over the live state, in Korean and English.

It knows robots, tables, orders, stock and events. Where a name fits several robots it asks the person; what it does not know
it asks the client for, if the client said that it can; otherwise it says so. Implements `ports.Answerer`.
"""

import math
import re
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

from robodyne_rt.core import times
from robodyne_rt.errors import StorageUnavailable
from robodyne_rt.model.changes import Entity
from robodyne_rt.ports import Conversation, NoReply, Restaurant, Unasked
from robodyne_rt.work.assistant.language import Code, age, josa, language_of, number, word
from robodyne_rt.work.assistant.names import is_mentioned, named

LATE_S = 480.0
"""Age at which an order is late; the same as on the screens."""

NEAR_M = 1.5
LOW_BATTERY = 20.0
LISTED_AT_MOST = 8
WINDOW_MIN = 30
WINDOW_AT_MOST_MIN = 24 * 60
OPTIONS_AT_MOST = 12

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

_TABLE = re.compile(r"(?:테이블|table)\s*(\d{1,4})|(\d{1,4})\s*번\s*테이블")
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


class RulesAssistant:
    """Answers from the state of a restaurant."""

    def __init__(self, restaurant: Restaurant) -> None:
        self._restaurant = restaurant
        self._handlers: dict[str, Callable[[Conversation, Code], Awaitable[str]]] = {
            "events": self._events,
            "stock": self._stock,
            "orders": self._orders,
            "tables": self._tables,
            "robots": self._robots,
            "troubles": self._troubles,
            "help": self._help,
        }

    async def answer(self, conversation: Conversation) -> str:
        code = language_of(conversation.question)
        topic = await self._topic(conversation)
        if topic is None:
            return await self._ask_elsewhere(conversation, code)
        if topic in _TOPIC_READ and not conversation.may_read(_TOPIC_READ[topic]):
            return _say(code, "그 정보를 볼 권한이 없습니다.", "You may not see that.")
        try:
            return await self._handlers[topic](conversation, code)
        except StorageUnavailable:
            return _say(code, "지금은 저장소를 읽을 수 없습니다.", "That cannot be looked up now: the database is away.")

    async def _topic(self, conversation: Conversation) -> str | None:
        """Return what a question is about: what happened, a robot that is named in full, then what its words say; a name
        alone is enough."""
        text = conversation.question.lower()
        robots = await self._restaurant.entities("robots") if conversation.may_read("robots") else []
        meant = named(text, robots)
        matches = [topic for topic, pattern in _TOPICS if re.search(pattern, text)]
        if "events" not in matches and meant.in_full:
            return "robots"
        if matches:
            return "events" if "events" in matches else matches[0]
        if meant.robots:
            return "robots"
        stock = await self._restaurant.entities("inventory") if conversation.may_read("inventory") else []
        return "stock" if any(is_mentioned(item["name"], text) for item in stock) else None

    # -- robots --------------------------------------------------------------------------------------------------

    async def _robots(self, conversation: Conversation, code: Code) -> str:
        robots = await self._restaurant.entities("robots")
        if not robots:
            return _say(code, "아직 알려진 로봇이 없습니다.", "No robot is known yet.")
        text = conversation.question.lower()
        meant = named(text, robots)
        if meant.unknown:
            known = ", ".join(sorted(robot["robot_id"] for robot in robots)[:LISTED_AT_MOST])
            return _say(
                code,
                f"'{meant.unknown}'에 맞는 로봇이 없습니다. 알려진 로봇: {known}.",
                f"No robot is called '{meant.unknown}'. Known robots: {known}.",
            )
        if meant.is_certain:
            return "\n".join([await self._robot(robot, code, conversation) for robot in meant.robots[:LISTED_AT_MOST]])
        if near := _TABLE.search(text):
            return await self._near_table(int(near[1] or near[2]), robots, conversation, code)
        if _AWAY.search(text):
            away = [await self._robot(robot, code, conversation) for robot in robots if robot["link"] != "ONLINE"]
            return "\n".join(away[:LISTED_AT_MOST]) or _say(code, "모든 로봇이 연결되어 있습니다.", "All robots are online.")
        if _LOWEST.search(text) or _LOW_BATTERY.search(text):
            return await self._low_battery(robots, conversation, code)
        if _BROKEN.search(text):
            broken = [await self._robot(robot, code, conversation) for robot in robots if _is_broken(robot)]
            return "\n".join(broken[:LISTED_AT_MOST]) or _say(code, "고장 난 로봇이 없습니다.", "No robot is in trouble.")
        if doing := [status for status, pattern in _DOING if re.search(pattern, text)]:
            return self._doing(robots, doing, code)
        if meant.robots:
            return await self._which_robot(meant.robots, conversation, code)
        return self._fleet(robots, code)

    async def _near_table(self, table: int, robots: list[Entity], conversation: Conversation, code: Code) -> str:
        """Say which robots are near a table."""
        places = {robot["robot_id"]: await self._near(robot, conversation) for robot in robots}
        near = [robot for robot in robots if places[robot["robot_id"]] == table]
        if not near:
            return _say(code, f"테이블 {table} 근처에 로봇이 없습니다.", f"No robot is near table {table}.")
        return "\n".join([await self._robot(robot, code, conversation) for robot in near[:LISTED_AT_MOST]])

    async def _low_battery(self, robots: list[Entity], conversation: Conversation, code: Code) -> str:
        """Say whose battery is low, or which one is the lowest; of those that can be reached, where there are any."""
        told = [robot for robot in robots if robot["battery_level"] is not None]
        told = [robot for robot in told if robot["link"] == "ONLINE"] or told
        if not told:
            return _say(code, "배터리를 알려 준 로봇이 없습니다.", "No robot has told its battery.")
        told.sort(key=lambda robot: robot["battery_level"])
        low = [robot for robot in told if robot["battery_level"] < LOW_BATTERY]
        if _LOWEST.search(conversation.question.lower()) or len(low) == 1:
            return await self._robot(told[0], code, conversation)
        if not low:
            least = await self._robot(told[0], code, conversation)
            lead = _say(code, "배터리가 부족한 로봇은 없습니다. 가장 낮은 로봇:", "No battery is low. The lowest:")
            return f"{lead} {least}"
        listed = ", ".join(f"{robot['robot_id']} {number(robot['battery_level'])}%" for robot in low[:LISTED_AT_MOST])
        return _say(code, f"배터리 부족 {len(low)}대: {listed}.", f"{len(low)} robots have a low battery: {listed}.")

    def _doing(self, robots: list[Entity], statuses: list[str], code: Code) -> str:
        """Say which robots do something."""
        parts = []
        for status in statuses:
            names = [robot["robot_id"] for robot in robots if robot["status"] == status and robot["link"] == "ONLINE"]
            listed = ", ".join(sorted(names)[:OPTIONS_AT_MOST]) or _say(code, "없음", "none")
            parts.append(f"{word('robot', status, code)} {len(names)}: {listed}.")
        return " ".join(parts)

    async def _which_robot(self, found: list[Entity], conversation: Conversation, code: Code) -> str:
        options = [robot["robot_id"] for robot in found[:OPTIONS_AT_MOST]]
        question = _say(code, "어느 로봇을 말씀하시나요?", "Which robot do you mean?")
        try:
            reply = (await conversation.clarify(question, options)).lower()
        except Unasked as error:
            all_of_them = [await self._robot(robot, code, conversation) for robot in found[:LISTED_AT_MOST]]
            lead = _say(
                code, "어느 로봇인지 몰라 모두 알려 드립니다.", "I do not know which one you mean, so here are all of them."
            )
            if isinstance(error, NoReply):
                lead = f"{_no_reply(code)} {lead}"
            return "\n".join([lead, *all_of_them])
        chosen = [robot for robot in found if _squeezed(robot["robot_id"]) == _squeezed(reply)] or named(reply, found).robots
        if not chosen and reply.strip().isdigit() and 1 <= int(reply) <= len(options):
            chosen = [found[int(reply) - 1]]
        if len(chosen) == 1:
            return await self._robot(chosen[0], code, conversation)
        rest = chosen or found
        return "\n".join([await self._robot(robot, code, conversation) for robot in rest[:LISTED_AT_MOST]])

    async def _robot(self, robot: Entity, code: Code, conversation: Conversation) -> str:
        name = robot["robot_id"]
        state = word("robot", robot["status"], code)
        battery = robot["battery_level"]
        place = await self._place(robot, code, conversation)
        if robot["link"] != "ONLINE":
            silent = self._age(robot["last_seen"], code)
            link = word("link", robot["link"], code)
            return _say(
                code,
                f"{josa(name, '은/는')} {link} 상태입니다. 마지막 소식은 {silent} 전, {state}, {place}.",
                f"{name} is not reachable ({link}). Last heard {silent} ago: {state}, {place}.",
            )
        charge = "" if battery is None else _say(code, f" 배터리 {number(battery)}%.", f" Battery {number(battery)} %.")
        return _say(code, f"{josa(name, '은/는')} {place}, {state}입니다.{charge}", f"{name} is {place}, {state}.{charge}")

    async def _place(self, robot: Entity, code: Code, conversation: Conversation) -> str:
        x, y = robot["x"], robot["y"]
        if x is None or y is None:
            return _say(code, "위치 모름", "at an unknown place")
        where = f"({number(x)}, {number(y)})"
        if (table := await self._near(robot, conversation)) is not None:
            return _say(code, f"테이블 {table} 근처 {where}", f"near table {table} {where}")
        return _say(code, f"위치 {where}", f"at {where}")

    async def _near(self, robot: Entity, conversation: Conversation) -> int | None:
        """Return the number of the table that a robot is at."""
        x, y = robot["x"], robot["y"]
        tables = await self._restaurant.entities("tables") if conversation.may_read("tables") else []
        near = [
            (math.hypot(table["x"] - x, table["y"] - y), table["table_number"])
            for table in tables
            if None not in (x, y, table["x"], table["y"])
        ]
        return min(near)[1] if near and min(near)[0] <= NEAR_M else None

    def _fleet(self, robots: list[Entity], code: Code) -> str:
        online = [robot for robot in robots if robot["link"] == "ONLINE"]
        states = Counter(robot["status"] for robot in online)
        doing = ", ".join(f"{word('robot', status, code)} {count}" for status, count in states.most_common())
        away = [robot["robot_id"] for robot in robots if robot["link"] != "ONLINE"][:LISTED_AT_MOST]
        low = [
            f"{robot['robot_id']} {number(robot['battery_level'])}%"
            for robot in online
            if robot["battery_level"] is not None and robot["battery_level"] < LOW_BATTERY
        ][:LISTED_AT_MOST]
        parts = [
            _say(
                code,
                f"로봇 {len(robots)}대 중 {len(online)}대가 연결되어 있습니다: {doing or '없음'}.",
                f"{len(online)} of {len(robots)} robots are online: {doing or 'none'}.",
            )
        ]
        if away:
            parts.append(_say(code, f"연결 안 됨: {', '.join(away)}.", f"Not reachable: {', '.join(away)}."))
        if low:
            parts.append(_say(code, f"배터리 부족: {', '.join(low)}.", f"Low battery: {', '.join(low)}."))
        return " ".join(parts)

    # -- tables --------------------------------------------------------------------------------------------------

    async def _tables(self, conversation: Conversation, code: Code) -> str:
        tables = await self._restaurant.entities("tables")
        text = conversation.question.lower()
        if asked := _TABLE.search(text):
            return await self._table(int(asked[1] or asked[2]), tables, conversation, code)
        if _FREE.search(text):
            free = sorted(table["table_number"] for table in tables if table["status"] == "AVAILABLE")
            listed = ", ".join(map(str, free[:OPTIONS_AT_MOST])) or _say(code, "없음", "none")
            return _say(code, f"빈 테이블 {len(free)}개: {listed}.", f"{_tables_are(len(free))} free: {listed}.")
        if re.search(r"손님|\bguests?\b|\bpeople\b", text):
            guests = sum(table["customer_count"] for table in tables)
            seated = sum(table["customer_count"] > 0 for table in tables)
            return _say(
                code, f"손님 {guests}명이 테이블 {seated}개에 있습니다.", f"{guests} guests are here, at {seated} tables."
            )
        calling = sorted((t for t in tables if t["status"] == "CALLING"), key=lambda table: table["updated_at"] or "")
        parts = []
        if calling:
            listed = ", ".join(
                _say(
                    code,
                    f"테이블 {table['table_number']} ({self._age(table['updated_at'], code)})",
                    f"table {table['table_number']} ({self._age(table['updated_at'], code)})",
                )
                for table in calling[:LISTED_AT_MOST]
            )
            parts.append(_say(code, f"호출 중 {len(calling)}곳: {listed}.", f"{len(calling)} calling: {listed}."))
        else:
            parts.append(_say(code, "호출 중인 테이블이 없습니다.", "No table is calling."))
        if conversation.may_read("orders"):
            parts.append(await self._longest_waiting(tables, code))
        occupied = sum(table["status"] in ("OCCUPIED", "CALLING") for table in tables)
        parts.append(
            _say(code, f"테이블 {len(tables)}개 중 {occupied}개 사용 중.", f"{occupied} of {_tables_are(len(tables))} taken.")
        )
        return " ".join(parts)

    async def _table(self, wanted: int, tables: list[Entity], conversation: Conversation, code: Code) -> str:
        """Say how one table is, and what it waits for."""
        table = next((table for table in tables if table["table_number"] == wanted), None)
        if table is None:
            return _say(code, f"테이블 {wanted}번이 없습니다.", f"There is no table {wanted}.")
        state, guests = word("table", table["status"], code), table["customer_count"]
        parts = [_say(code, f"테이블 {wanted}: {state}, 손님 {guests}명.", f"Table {wanted}: {state}, {guests} guests.")]
        if conversation.may_read("orders"):
            orders = await self._restaurant.entities("orders")
            mine = [order for order in orders if order["table_id"] == table["id"] and order["status"] in _OPEN]
            listed = "; ".join(self._order(order, {}, code) for order in mine[:LISTED_AT_MOST])
            parts.append(
                _say(code, f"주문: {listed}.", f"Orders: {listed}.")
                if mine
                else _say(code, "열린 주문이 없습니다.", "No order is open.")
            )
        return " ".join(parts)

    async def _longest_waiting(self, tables: list[Entity], code: Code) -> str:
        numbers = {table["id"]: table["table_number"] for table in tables}
        waiting: dict[int, str] = {}
        for order in await self._restaurant.entities("orders"):
            if order["status"] in _OPEN and order["table_id"] in numbers:
                table = numbers[order["table_id"]]
                waiting[table] = min(waiting.get(table, order["timestamp"]), order["timestamp"])
        if not waiting:
            return _say(code, "음식을 기다리는 테이블이 없습니다.", "No table is waiting for food.")
        longest = sorted(waiting.items(), key=lambda item: item[1])[:3]
        listed = ", ".join(
            _say(code, f"테이블 {table} ({self._age(since, code)})", f"table {table} ({self._age(since, code)})")
            for table, since in longest
        )
        return _say(code, f"음식을 가장 오래 기다리는 곳: {listed}.", f"Waiting longest for food: {listed}.")

    # -- orders, stock, events -----------------------------------------------------------------------------------

    async def _orders(self, conversation: Conversation, code: Code) -> str:
        numbers = {}
        if conversation.may_read("tables"):
            numbers = {table["id"]: table["table_number"] for table in await self._restaurant.entities("tables")}
        orders = [order for order in await self._restaurant.entities("orders") if order["status"] in _OPEN]
        if (asked := _TABLE.search(conversation.question.lower())) and conversation.may_read("tables"):
            tables = await self._restaurant.entities("tables")
            return await self._table(int(asked[1] or asked[2]), tables, conversation, code)
        orders.sort(key=lambda order: order["timestamp"])
        late = [order for order in orders if self._seconds(order["timestamp"]) >= LATE_S]
        if not orders:
            return _say(code, "열린 주문이 없습니다.", "No order is open.")
        if _HOW_MANY.search(conversation.question.lower()):
            return _say(
                code,
                f"열린 주문 {len(orders)}건, 그중 늦은 주문 {len(late)}건.",
                f"{len(orders)} order{'s are' if len(orders) != 1 else ' is'} open, {len(late)} of them late.",
            )
        if not late:
            first = "; ".join(self._order(order, numbers, code) for order in orders[:3])
            return _say(
                code,
                f"열린 주문 {len(orders)}건, 늦은 주문은 없습니다. 가장 오래된 주문: {first}.",
                f"{len(orders)} orders are open, none of them is late. The oldest: {first}.",
            )
        listed = "; ".join(self._order(order, numbers, code) for order in late[:LISTED_AT_MOST])
        return _say(
            code,
            f"열린 주문 {len(orders)}건 중 {len(late)}건이 늦었습니다: {listed}.",
            f"{len(late)} of {len(orders)} open orders are late: {listed}.",
        )

    def _order(self, order: Entity, numbers: dict[int, int], code: Code) -> str:
        table = numbers.get(order["table_id"])
        dishes = ", ".join(f"{item['name']} {item['quantity']}" for item in order["items"][:4])
        state, since = word("order", order["status"], code), self._age(order["timestamp"], code)
        where = _say(code, f"테이블 {table} ", f"table {table} ") if table is not None else ""
        return f"{where}({since}, {state}) {dishes}".strip()

    async def _stock(self, conversation: Conversation, code: Code) -> str:
        stock = await self._restaurant.entities("inventory")
        text = conversation.question.lower()
        if asked := [item for item in stock if is_mentioned(item["name"], text)]:
            listed = ", ".join(
                f"{item['name']} {number(item['count'])}/{number(item['max_count'])} ({_stock_word(item, code)})"
                for item in asked[:LISTED_AT_MOST]
            )
            return _say(code, f"재고: {listed}.", f"In stock: {listed}.")
        low = [item for item in stock if item["status"] != "IN_STOCK"]
        if not low:
            return _say(code, "부족한 재고가 없습니다.", "Nothing is running low.")
        listed = ", ".join(f"{i['name']} {number(i['count'])} ({_stock_word(i, code)})" for i in low[:LISTED_AT_MOST])
        return _say(code, f"재고 {len(low)}가지가 부족합니다: {listed}.", f"{len(low)} ingredients run low: {listed}.")

    async def _events(self, conversation: Conversation, code: Code) -> str:
        minutes = _minutes(conversation.question)
        events = await self._restaurant.events_since(self._restaurant.wall() - 60 * minutes)
        span = age(60 * minutes, code)
        if not events:
            return _say(code, f"지난 {span} 동안 아무 일도 없었습니다.", f"Nothing happened in the last {span}.")
        kinds = Counter(word("event", event["type"], code) for event in events)
        counts = ", ".join(f"{kind} {count}" for kind, count in kinds.most_common(6))
        names = await self._names(conversation, code)
        lines = []
        for event in events[:LISTED_AT_MOST]:
            ago, kind = self._age(event["timestamp"], code), word("event", event["type"], code)
            about = names.get((event["related_entity_type"], event["related_entity_id"]), "")
            text = (event["description"] or "").strip().replace("\n", " ")[:120]
            said = " ".join(part for part in (kind, about if about not in text else "", text) if part)
            lines.append(_say(code, f"- {ago} 전 {said}", f"- {ago} ago {said}"))
        lead = _say(
            code,
            f"지난 {span} 동안 {len(events)}건: {counts}.",
            f"{len(events)} event{'s' * (len(events) != 1)} in the last {span}: {counts}.",
        )
        return "\n".join([lead, *lines])

    async def _names(self, conversation: Conversation, code: Code) -> dict[tuple[str | None, int | None], str]:
        """Return what the tables and robots that events are about are called."""
        names: dict[tuple[str | None, int | None], str] = {}
        if conversation.may_read("tables"):
            for table in await self._restaurant.entities("tables"):
                names["table", table["id"]] = _say(code, f"테이블 {table['table_number']}", f"table {table['table_number']}")
        if conversation.may_read("robots"):
            names |= {("robot", robot["id"]): robot["robot_id"] for robot in await self._restaurant.entities("robots")}
        return names

    async def _troubles(self, conversation: Conversation, code: Code) -> str:
        """Say all that somebody should look after."""
        found = []
        if conversation.may_read("robots"):
            for robot in await self._restaurant.entities("robots"):
                if _is_broken(robot):
                    found.append(await self._robot(robot, code, conversation))
        if conversation.may_read("tables"):
            calling = [t["table_number"] for t in await self._restaurant.entities("tables") if t["status"] == "CALLING"]
            if calling:
                listed = ", ".join(map(str, sorted(calling)[:OPTIONS_AT_MOST]))
                found.append(_say(code, f"호출 중인 테이블: {listed}.", f"Tables calling: {listed}."))
        if conversation.may_read("orders"):
            orders = [order for order in await self._restaurant.entities("orders") if order["status"] in _OPEN]
            if late := sum(self._seconds(order["timestamp"]) >= LATE_S for order in orders):
                found.append(_say(code, f"늦은 주문 {late}건.", f"{late} orders are late."))
        if conversation.may_read("inventory"):
            low = [item["name"] for item in await self._restaurant.entities("inventory") if item["status"] != "IN_STOCK"]
            if low:
                listed = ", ".join(low[:LISTED_AT_MOST])
                found.append(_say(code, f"부족한 재고: {listed}.", f"Running low: {listed}."))
        return "\n".join(found[:OPTIONS_AT_MOST]) or _say(code, "문제가 없습니다.", "All is well, as far as I can see.")

    async def _help(self, conversation: Conversation, code: Code) -> str:
        return _say(
            code,
            "로봇의 위치와 상태, 호출하거나 기다리는 테이블, 늦은 주문, 부족한 재고, 최근에 있었던 일을 물어보세요.",
            "Ask me where a robot is and how it does, which tables call or wait, which orders are late, what runs low, or what "
            "happened lately.",
        )

    # -- what is not known here ----------------------------------------------------------------------------------

    async def _ask_elsewhere(self, conversation: Conversation, code: Code) -> str:
        """Ask the client for what it has, choose, and get it."""
        try:
            sources = _sources(await conversation.available_data(conversation.question))
        except NoReply:
            return _no_reply(code)
        except Unasked:
            return _unknown(code)
        if not sources:
            return _say(
                code,
                "그것은 제가 모르고, 앱에도 쓸 수 있는 데이터가 없습니다.",
                "I do not know that, and your app has no data on it either.",
            )
        chosen = [source for source in sources if _fits(source, conversation.question)]
        if not chosen:
            known = ", ".join(source["name"] for source in sources[:OPTIONS_AT_MOST])
            return _say(
                code, f"그것은 모릅니다. 앱에 있는 데이터: {known}.", f"I do not know that. Your app has data on: {known}."
            )
        if len(chosen) != 1:
            names = [source["name"] for source in chosen][:OPTIONS_AT_MOST]
            question = _say(code, "어느 데이터를 볼까요?", "Which data shall I look at?")
            try:
                reply = await conversation.clarify(question, names)
            except Unasked as error:
                listed = ", ".join(names)
                which = _say(code, f"어느 것인지 알려 주세요: {listed}.", f"Please say which one you mean: {listed}.")
                return f"{_no_reply(code)} {which}" if isinstance(error, NoReply) else which
            chosen = [source for source in sources if _squeezed(source["name"]) == _squeezed(reply)]
            chosen = chosen or [source for source in sources if _fits(source, reply)]
            if not chosen:
                return _unknown(code)
        name = chosen[0]["name"]
        try:
            result = await conversation.api(name, {"question": conversation.question})
        except Unasked:
            return _say(code, f"앱이 '{name}' 데이터를 제때 주지 않았습니다.", f"Your app did not give me '{name}' in time.")
        text = _plain(result)
        if not text:
            return _say(code, f"'{name}' 데이터가 비어 있습니다.", f"'{name}' is empty.")
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


def _say(code: Code, korean: str, english: str) -> str:
    return korean if code == "ko" else english


def _unknown(code: Code) -> str:
    return _say(
        code,
        "그것은 모릅니다. 로봇, 테이블, 주문, 재고, 최근에 있었던 일을 물어보세요.",
        "I do not know that. Ask me about robots, tables, orders, stock, or what happened lately.",
    )


def _no_reply(code: Code) -> str:
    return _say(code, "물어봤지만 제때 아무도 답하지 않았습니다.", "I asked, and nobody answered in time.")


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
    return max(1, min(WINDOW_AT_MOST_MIN, sum(amounts) or WINDOW_MIN))


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
        parts = (_plain(item, depth + 1) for item in value[:LISTED_AT_MOST])
        return ("; " if depth == 0 else ", ").join(part for part in parts if part)[:1000]
    return str(value)[:1000]
