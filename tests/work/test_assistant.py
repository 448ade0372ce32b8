"""The assistant of rules: what it says to a cook and a manager, in both languages, about a state that just changed."""

import asyncio
import re
import unicodedata
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from robodyne_rt.ports import CannotAsk
from robodyne_rt.work.assistant.language import WORDS, age, josa, language_of, number, word
from robodyne_rt.work.assistant.rules import RulesAssistant
from tests.e2e.server import Server
from tests.e2e.session_client import SessionClient, faults_logged, mint
from tests.ports import free_port

NOW = 1_800_000_000.0
TOPICS = ("robots", "tables", "orders", "events", "inventory")


class Kitchen:
    """A restaurant in memory; implements `ports.Restaurant`."""

    def __init__(self) -> None:
        self.state: dict[str, list[dict[str, Any]]] = {topic: [] for topic in TOPICS}
        self.events: list[dict[str, Any]] = []
        for id, type in (("alba-1", "ALBABOT"), ("alba-2", "ALBABOT"), ("alba-12", "ALBABOT"), ("cook-1", "COOKBOT")):
            self.robot(id, type=type)

    def robot(self, id: str, **fields: Any) -> dict[str, Any]:
        row = {
            **{"id": 100 + len(self.state["robots"])},
            **{"robot_id": id, "type": "ALBABOT", "name": None, "status": "IDLE", "battery_level": 50.0},
            **{"x": None, "y": None, "link": "ONLINE", "last_seen": at(0)},
        }
        self.state["robots"].append(row | fields)
        return self.state["robots"][-1]

    async def entities(self, topic: str) -> list[dict[str, Any]]:
        return self.state[topic]

    async def events_since(self, epoch_s: float) -> list[dict[str, Any]]:
        return [event for event in self.events if event["timestamp"] >= text_of(epoch_s)]

    def wall(self) -> float:
        return NOW


def text_of(epoch_s: float) -> str:
    return datetime.fromtimestamp(epoch_s, UTC).isoformat(timespec="microseconds")[:-6] + "Z"


def at(ago_s: float) -> str:
    return text_of(NOW - ago_s)


def event(type: str, description: str, timestamp: str) -> dict[str, Any]:
    nothing = {"related_entity_type": None, "related_entity_id": None}
    return {"type": type, "severity": "INFO", "description": description, "timestamp": timestamp, **nothing}


class Talk:
    """One question of somebody; implements `ports.Conversation`. What the client says comes from the keywords."""

    user = "anna"

    def __init__(self, question: str, *, topics: Any = TOPICS, reply: str | None = None, data: Any = None, api: Any = None):
        self.question = question
        self._topics, self._reply, self._data, self._api = topics, reply, data, api
        self.options: list[str] | None = None
        self.called: str | None = None

    @property
    def capabilities(self) -> frozenset[str]:
        return frozenset()

    def may_read(self, topic: str) -> bool:
        return topic in self._topics

    def progress(self, text: str) -> None: ...

    async def clarify(self, question: str, options: list[str]) -> str:
        self.options = options
        if self._reply is None:
            raise CannotAsk("nobody")
        return self._reply

    async def available_data(self, question: str) -> list[Any]:
        if self._data is None:
            raise CannotAsk("nothing")
        return list(self._data)

    async def api(self, name: str, params: dict[str, Any]) -> Any:
        self.called = name
        if isinstance(self._api, Exception):
            raise self._api
        return self._api


async def answer(kitchen: Kitchen, question: str, **options: Any) -> str:
    return await RulesAssistant(kitchen).answer(Talk(question, **options))


# -- words -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "pair", "said"),
    [
        ("로봇", "이/가", "로봇이"),
        ("알바", "이/가", "알바가"),
        ("alba-1", "은/는", "alba-1은"),
        ("alba-2", "은/는", "alba-2는"),
        ("alba-3", "이/가", "alba-3이"),
        ("alba-10", "을/를", "alba-10을"),
        ("alba-12", "은/는", "alba-12는"),
        ("9", "이/가", "9가"),
        ("alba-1", "으로/로", "alba-1로"),
        ("alba-3", "으로/로", "alba-3으로"),
        ("alba-7", "으로/로", "alba-7로"),
        ("서울", "으로/로", "서울로"),
        ("부엌", "으로/로", "부엌으로"),
        ("주방", "으로/로", "주방으로"),
        ("로비", "으로/로", "로비로"),
        ("robot n", "이/가", "robot n이"),
        ("(김치)", "이/가", "(김치)가"),
        ("", "이/가", "가"),
    ],
)
def test_a_particle_follows_the_last_sound(given: str, pair: str, said: str) -> None:
    assert josa(given, pair) == said


@pytest.mark.parametrize(
    ("seconds", "korean", "english"),
    [
        (-5, "0초", "0 s"),
        (0, "0초", "0 s"),
        (59.9, "59초", "59 s"),
        (60, "1분", "1 min"),
        (3599, "59분", "59 min"),
        (3600, "1시간", "1 h"),
        (3660, "1시간 1분", "1 h 1 min"),
        (90_000, "25시간", "25 h"),
    ],
)
def test_an_age_is_said_for_people(seconds: float, korean: str, english: str) -> None:
    assert (age(seconds, "ko"), age(seconds, "en")) == (korean, english)


def test_small_words() -> None:
    assert [language_of(text) for text in ("alba-1", "alba-1 어디", "ㅋㅋ", "")] == ["en", "ko", "ko", "en"]
    assert [number(value) for value in (1.0, 1.25, 0, 99.96)] == ["1", "1.2", "0", "100"]
    assert [word("robot", *said) for said in (("CHARGING", "ko"), ("CHARGING", "en"), ("NEW", "ko"))] == [
        "충전 중",
        "charging",
        "NEW",
    ]


# -- which robot -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("question", "meant"),
    [
        ("alba-1", ["alba-1"]),
        ("where is alba-1?", ["alba-1"]),
        ("Where is ALBA-1 right now", ["alba-1"]),
        ("how is alba 1", ["alba-1"]),
        ("how is alba1 doing", ["alba-1"]),
        ("what is alba_1's battery", ["alba-1"]),
        ("where is alba-12", ["alba-12"]),
        ("alba-12 어디 있어?", ["alba-12"]),
        ("alba-1이 어디 있어?", ["alba-1"]),
        ("지금 alba-2는 어디야", ["alba-2"]),
        ("1번 로봇 어디야", ["alba-1", "cook-1"]),
        ("12번 로봇 상태", ["alba-12"]),
        ("2호 배터리", ["alba-2"]),
        ("robot 1", ["alba-1", "cook-1"]),
        ("where is robot 12", ["alba-12"]),
        ("how is the battery of robot #2", ["alba-2"]),
        ("서빙 로봇 1번 어디", ["alba-1"]),
        ("서빙 로봇 어디 있어", ["alba-1", "alba-12", "alba-2"]),
        ("where is the serving robot", ["alba-1", "alba-12", "alba-2"]),
        ("조리 로봇 어디", ["cook-1"]),
        ("where is the cooking robot", ["cook-1"]),
        ("쿡봇 상태", ["cook-1"]),
        ("알바-1 어디 있어", ["alba-1"]),
        ("알바1 배터리", ["alba-1"]),
        ("알바 12 상태 알려줘", ["alba-12"]),
    ],
)
async def test_a_robot_is_found_by_what_people_call_it(question: str, meant: list[str]) -> None:
    kitchen = Kitchen()
    talk = Talk(question)
    text = await RulesAssistant(kitchen).answer(talk)
    known = [robot["robot_id"] for robot in kitchen.state["robots"]]
    lines = text.splitlines()
    said = [id for id in known if any(line.startswith((f"{id} is", f"{id}은", f"{id}는")) for line in lines)]
    assert sorted(said) == sorted(meant), text
    if len(meant) > 1:
        assert sorted(talk.options or []) == sorted(meant)


async def test_a_robot_is_found_by_its_own_name() -> None:
    kitchen = Kitchen()
    kitchen.state["robots"][1]["name"] = "Rosie"
    kitchen.state["robots"][3]["name"] = "김 셰프"
    assert (await answer(kitchen, "where is Rosie?")).startswith("alba-2")
    assert (await answer(kitchen, "김셰프 어디 있어?")).startswith("cook-1")


@pytest.mark.parametrize(
    "question", ["where is alba-7?", "zulu-1 battery?", "how is robot zulu-99", "9번 로봇 어디야", "robot 99"]
)
async def test_a_robot_that_nobody_knows_is_told_to_be_unknown(question: str) -> None:
    text = await answer(Kitchen(), question)
    assert "No robot is called" in text or "맞는 로봇이 없습니다" in text, text
    assert "alba-1" in text  # who is known


async def test_which_robot_is_asked_where_several_fit_and_the_answer_is_for_the_one_meant() -> None:
    kitchen = Kitchen()
    for index, battery in enumerate((11, 22, 33)):
        kitchen.state["robots"][index]["battery_level"] = float(battery)
    for reply, shown in (("alba-1", "11"), ("alba-12", "33"), ("ALBA 2", "22"), ("2번", "22")):
        text = await answer(kitchen, "서빙 로봇 어디?", reply=reply)
        assert f"{shown}%" in text and "\n" not in text, (reply, text)


# -- where and how -------------------------------------------------------------------------------------------------------------


async def test_a_place_is_told_by_the_table_nearby() -> None:
    kitchen = Kitchen()
    robot = kitchen.state["robots"][0]
    robot |= {"x": 3.2, "y": 1.0, "status": "SERVING"}
    kitchen.state["tables"] = [
        {"id": n, "table_number": n, "x": float(n), "y": 1.0, "status": "OCCUPIED", "updated_at": at(0)} for n in (1, 3, 9)
    ]
    text = await answer(kitchen, "alba-1 어디 있어?")
    assert "테이블 3 근처" in text and "서빙 중" in text and "50%" in text
    robot |= {"x": 6.0}
    assert "(6, 1)" in await answer(kitchen, "alba-1?") and "near" not in await answer(kitchen, "alba-1?")
    robot |= {"x": 3.2}
    assert "table" not in await answer(kitchen, "alba-1?", topics=("robots",))
    robot |= {"link": "CONNECTIONBROKEN", "last_seen": at(125)}
    text = await answer(kitchen, "alba-1?")
    assert "not reachable" in text and "2 min ago" in text
    robot |= {"link": "OFFLINE", "battery_level": None, "last_seen": None, "x": None, "y": None}
    assert "종료됨" in await answer(kitchen, "alba-1 상태")


@pytest.mark.parametrize("question", ["배터리 부족한 로봇 있어?", "Which robots have a low battery?", "방전된 로봇?"])
async def test_low_batteries(question: str) -> None:
    kitchen = Kitchen()
    names = [robot["robot_id"] for robot in kitchen.state["robots"]]
    assert len(names) == 4
    text = await answer(kitchen, question)
    assert any(none in text for none in ("없습니다", "No battery is low")) and "50" in text
    for index, level in enumerate((12.0, 7.0)):
        kitchen.state["robots"][index]["battery_level"] = level
    text = await answer(kitchen, question)
    assert text.index(f"{names[1]} 7%") < text.index(f"{names[0]} 12%") and names[2] not in text
    kitchen.state["robots"][1] |= {"link": "OFFLINE"}  # what it told is old
    text = await answer(kitchen, question)
    assert names[0] in text and "12" in text and names[1] not in text
    assert names[0] in await answer(kitchen, "which robot has the lowest battery")


@pytest.mark.parametrize("question", ["any broken robots?", "고장난 로봇 있어?"])
async def test_a_robot_whose_link_broke_is_broken(question: str) -> None:
    kitchen = Kitchen()
    text = await answer(kitchen, question)
    assert "없습니다" in text or "No robot is in trouble" in text
    kitchen.state["robots"][2] |= {"link": "CONNECTIONBROKEN"}
    kitchen.state["robots"][3] |= {"status": "ERROR"}
    text = await answer(kitchen, question)
    named = [bool(re.search(rf"{robot['robot_id']}(?!\d)", text)) for robot in kitchen.state["robots"]]
    assert named == [False, False, True, True]


async def test_events_say_what_they_are_about_in_the_words_of_the_page() -> None:
    kitchen = Kitchen()
    kitchen.state["tables"] = [{"id": 70, "table_number": 7}]
    kitchen.events = [event("CALL", "물 주세요", at(27)) | {"related_entity_type": "table", "related_entity_id": 70}]
    assert "27초 전 직원 호출 테이블 7 물 주세요" in await answer(kitchen, "최근에 무슨 일 있었어?")
    assert "27 s ago call table 7 물 주세요" in await answer(kitchen, "what happened?")
    assert "테이블" not in await answer(kitchen, "최근에 무슨 일 있었어?", topics=("events",))


def test_the_assistant_has_the_words_of_the_page() -> None:
    script = (Path(__file__).parents[2] / "robodyne_rt/web/pages/i18n.js").read_text()
    codes = script[script.index("const CODES = {") :]
    for kind, words in WORDS.items():
        block = re.search(rf"^  {kind}: \{{(.*?)^  \}},", codes, re.M | re.S)
        assert block is not None, kind
        on_page = {code: (ko, en) for code, ko, en in re.findall(r'(\w+): \["(.*?)", "(.*?)"\]', block[1])}
        assert on_page == words, kind


async def test_a_fleet_at_a_glance() -> None:
    kitchen = Kitchen()
    kitchen.state["robots"][0] |= {"battery_level": 9.0}
    kitchen.state["robots"][3] |= {"link": "CONNECTIONBROKEN"}
    text = await answer(kitchen, "how are the robots?")
    assert "3 of 4" in text and "cook-1" in text and "alba-1 9" in text
    kitchen.state["robots"] = []
    assert "No robot" in await answer(kitchen, "where are the robots") and "없습니다" in await answer(kitchen, "로봇 어디")


# -- how long ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("question", "minutes"),
    [
        ("what happened in the last 10 minutes?", 10),
        ("what happened in the last 5 min", 5),
        ("what happened in the past 2 hours", 120),
        ("what happened in the last 3h", 180),
        ("what happened?", 30),
        ("what happened in the last hour?", 60),
        ("what happened in the last half hour", 30),
        ("지난 10분 동안 무슨 일 있었어?", 10),
        ("최근 2시간 동안 있었던 일", 120),
        ("지난 한 시간 동안 무슨 일 있었어?", 60),
        ("지난 1시간 30분 동안 무슨 일 있었어?", 90),
        ("무슨 일 있었어", 30),
        ("what happened in the last 99999 minutes", 1440),
    ],
)
async def test_the_time_that_is_asked_for_is_the_time_that_is_told(question: str, minutes: int) -> None:
    kitchen = Kitchen()
    kitchen.events = [
        event("INSIDE", "in", at(60 * minutes - 5)),
        event("OUTSIDE", "out", at(60 * minutes + 5)),
    ]
    text = await answer(kitchen, question)
    assert "INSIDE" in text and "OUTSIDE" not in text, text


# -- what it may not and cannot say --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("question", "topic"),
    [
        ("where is alba-1", "robots"),
        ("alba-1 battery", "robots"),
        ("which tables are calling?", "tables"),
        ("늦은 주문 있어?", "orders"),
        ("what is running low?", "inventory"),
        ("what happened in the last 5 minutes", "events"),
    ],
)
async def test_who_may_not_see_a_topic_is_told_so_and_nothing_else(question: str, topic: str) -> None:
    text = await answer(Kitchen(), question, topics=[other for other in TOPICS if other != topic])
    assert "권한" in text or "may not" in text
    assert "alba-1" not in text and "Known robots" not in text


async def test_a_robots_name_alone_tells_nothing_to_who_may_not_see_robots() -> None:
    known, unknown = [await answer(Kitchen(), name, topics=()) for name in ("alba-1", "alba-7")]
    assert known == unknown


async def test_what_it_does_not_know_it_says() -> None:
    assert "do not know" in await answer(Kitchen(), "what's the weather")
    assert "모릅니다" in await answer(Kitchen(), "오늘 날씨 어때")
    assert "no data" in await answer(Kitchen(), "what's the weather", data=[])
    assert "데이터가 없습니다" in await answer(Kitchen(), "오늘 날씨 어때", data=[])


async def test_it_asks_the_app_for_what_it_does_not_know() -> None:
    kitchen = Kitchen()
    sources = [{"name": "weather", "keywords": ["날씨"]}, "menu"]
    assert await answer(kitchen, "오늘 날씨 어때", data=sources, api={"sky": "blue"}) == "weather: sky blue"
    assert "in time" in await answer(kitchen, "what's the weather", data=sources, api=CannotAsk("late"))
    assert "empty" in await answer(kitchen, "what's the weather", data=sources, api=[])
    talk = Talk("soup of the day", data=["soup menu", "soup prices", "weather"], reply="soup menu", api=["kimchi"])
    assert await RulesAssistant(kitchen).answer(talk) == "soup menu: kimchi"
    assert talk.options == ["soup menu", "soup prices"] and talk.called == "soup menu"
    assert "weather" in await answer(kitchen, "sing a song", data=sources)  # what the app has, where none of it fits
    deep: Any = "x"
    for _ in range(50):
        deep = [deep]
    assert "x" in await answer(kitchen, "what's the weather", data=sources, api=deep)
    assert len(await answer(kitchen, "what's the weather", data=sources, api={"k" * 9: ["v" * 9000] * 90})) < 5000


@pytest.mark.parametrize(
    "question", ["", " ", "?", "\0", "1", "번", "-", "%", "\\", "(", "[a-z", "a" * 4000, "🍜", "alba-", "*", "1" * 4000, "no"]
)
async def test_no_question_breaks_it(question: str) -> None:
    kitchen = Kitchen()
    kitchen.robot("")
    kitchen.robot("(((", name="[")
    kitchen.robot("로봇", name="*")
    kitchen.state["inventory"] = [
        {"name": "+", "count": 1.0, "max_count": 2.0, "status": "LOW_STOCK"},
        {"name": "김치", "count": 0.0, "max_count": 2.0, "status": "OUT_OF_STOCK"},
    ]
    for prefix in ("", "로봇 ", "재고 ", "주문 ", "테이블 ", "무슨 일 "):
        assert await answer(kitchen, prefix + question)


async def test_an_ingredient_is_not_found_inside_another_word() -> None:
    kitchen = Kitchen()
    kitchen.state["inventory"] = [
        {"name": name, "count": 40.0, "max_count": 100.0, "status": "IN_STOCK"} for name in ("ice", "rice", "ham")
    ]
    text = await answer(kitchen, "rice stock?")
    assert "rice 40/100" in text and " ice" not in text and "ham" not in text


@pytest.mark.parametrize(
    "question",
    ["how much rice is left?", "do we have enough rice", "rice 남았어?", "rice 얼마나 있어?", "are we out of rice?"],
)
async def test_an_ingredients_name_is_enough(question: str) -> None:
    kitchen = Kitchen()
    kitchen.state["inventory"] = [{"name": "rice", "count": 40.0, "max_count": 100.0, "status": "IN_STOCK"}]
    assert "40/100" in await answer(kitchen, question)


async def test_a_short_name_of_an_ingredient_is_not_found_everywhere() -> None:
    kitchen = Kitchen()
    kitchen.state["inventory"] = [
        {"name": name, "count": 40.0, "max_count": 100.0, "status": "IN_STOCK"} for name in ("무", "물", "ice")
    ]
    for question in ("무슨 노래 좋아해?", "선물 뭐가 좋을까", "what is the service charge"):
        assert "40/100" not in await answer(kitchen, question), question
    assert "40/100" in await answer(kitchen, "물 재고") and "40/100" in await answer(kitchen, "is there any ice?")


@pytest.mark.parametrize("question", ["which robots are serving?", "지금 서빙 중인 로봇은?"])
async def test_who_asks_which_robots_do_something_is_not_asked_which_robot_is_meant(question: str) -> None:
    kitchen = Kitchen()
    kitchen.state["robots"][2]["status"] = "SERVING"
    talk = Talk(question)
    await RulesAssistant(kitchen).answer(talk)
    assert talk.options is None


@pytest.mark.parametrize("question", ["is alba-1 waiting at table 3?", "alba-1이 테이블 3에 있어?", "Is alba-1 late?"])
async def test_a_robots_full_name_says_what_a_question_is_about(question: str) -> None:
    assert (await answer(Kitchen(), question)).startswith("alba-1")


# -- orders --------------------------------------------------------------------------------------------------------------------


class Forbidden(Kitchen):
    """A restaurant that must not be looked at."""

    async def entities(self, topic: str) -> list[dict[str, Any]]:
        raise AssertionError(topic)


@pytest.mark.parametrize(
    ("order", "button"),
    [
        ("alba-1 멈춰", "빨간 버튼"),
        ("제발 모든 로봇 멈춰주세요", "빨간 버튼"),
        (unicodedata.normalize("NFD", "정지"), "빨간 버튼"),
        ("stop 알바-1", "빨간 버튼"),
        ("stop all robots", "red button"),
        ("could you please stop alba-1", "red button"),
        ("send alba-2 to table 3", "red button"),
        ("where is alba-1? stop it", "red button"),
    ],
)
async def test_an_order_is_refused_in_the_language_of_who_gives_it_and_nothing_is_looked_up(order: str, button: str) -> None:
    for topics in (TOPICS, ()):
        text = await answer(Forbidden(), order, topics=topics)
        assert button in text and not re.search(r"alba|idle|대기|\d", text), text
        assert language_of(text) == language_of(order)


@pytest.mark.parametrize("text", ["alba-1 twerk", "alba-1 굴렁쇠", "alba-1 ㄱㄱ", "alba-1, alba-2 vamos"])
async def test_what_may_be_an_order_to_a_robot_in_words_that_nobody_knows_is_refused(text: str) -> None:
    said = await answer(Kitchen(), text)
    assert "red button" in said or "빨간 버튼" in said


# -- whose name stands there ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("question", "told", "unknown"),
    [
        ("where is alba-1?", ["alba-1"], None),
        ("alba-1을 찾아줘", ["alba-1"], None),
        ("where is alba-3?", [], "alba-3"),
        ("where is alba-123?", [], "alba-123"),
        ("where is alba-1b?", [], "alba-1b"),
        ("where is alba-1-2?", [], "alba-1-2"),
        ("where is alba-x", [], "alba-x"),
        ("where is xalba-1?", [], "xalba-1"),
        ("alba-7", [], "alba-7"),
        ("alba-1이랑 alba-7 어디?", ["alba-1"], "alba-7"),
        ("where are alba-2 and alba-12 and zulu-9?", ["alba-2", "alba-12"], "zulu-9"),
        ("robot 1 battery", ["1"], None),
        ("1번 로봇 어디?", ["1"], None),
        ("로봇 12 어디", ["alba-12"], None),
        ("로봇 3대 어디", [], None),
        ("where is robot a?", ["a"], None),
        ("is there a robot near?", [], None),
    ],
)
async def test_a_robot_is_meant_where_its_whole_name_stands(question: str, told: list[str], unknown: str | None) -> None:
    kitchen = Kitchen()
    kitchen.robot("1")
    kitchen.robot("a")
    text = await answer(kitchen, question)
    lines = text.splitlines()
    known = [robot["robot_id"] for robot in kitchen.state["robots"]]
    assert [id for id in known if any(line.startswith((f"{id} is", f"{id}은", f"{id}는")) for line in lines)] == [
        id for id in known if id in told
    ], text
    is_told = [line for line in lines if "No robot is called" in line or "맞는 로봇이 없습니다" in line]
    assert [f"'{unknown}'" in line for line in is_told] == ([True] if unknown else []), text


@pytest.mark.parametrize(
    ("question", "table"),
    [
        ("table 3?", 3),
        ("how is table 12?", 12),
        ("3번 테이블로 간 로봇?", None),
        ("3번 테이블은?", 3),
        ("3번테이블 상태", 3),
        ("테이블 3번 상태", 3),
        ("테이블 1시간 기다린 손님?", None),
        ("빈 테이블 3개 있어?", None),
        ("is the vegetable 3 served at tables?", None),
        ("table 99", 99),
        ("99번 테이블 상태", 99),
    ],
)
async def test_a_table_is_meant_where_its_whole_name_stands(question: str, table: int | None) -> None:
    kitchen = Kitchen()
    kitchen.state["tables"] = [
        {"id": n, "table_number": n, "x": 0.0, "y": 0.0, "status": "AVAILABLE", "customer_count": 0, "updated_at": at(0)}
        for n in (1, 3, 12)
    ]
    text = await answer(kitchen, question)
    told = re.search(r"^(?:Table |테이블 |There is no table )(\d+)(?::|번이|\.)", text)
    assert (int(told[1]) if told else None) == table, text
    if table == 99:
        assert "There is no table 99" in text or "테이블 99번이 없습니다" in text


async def test_no_robot_is_near_a_table_that_does_not_exist() -> None:
    kitchen = Kitchen()
    kitchen.state["tables"] = [{"id": 1, "table_number": 1, "x": 1.0, "y": 1.0}]
    assert "There is no table 9" in await answer(kitchen, "which robot is near table 9?")


# -- how often it looks --------------------------------------------------------------------------------------------------------


class Counting(Kitchen):
    """Counts what is read."""

    def __init__(self) -> None:
        super().__init__()
        self.read: list[str] = []

    async def entities(self, topic: str) -> list[dict[str, Any]]:
        self.read.append(topic)
        return await super().entities(topic)


class CountingTalk(Talk):
    """Counts how often rights are asked for."""

    def __init__(self, question: str, **options: Any) -> None:
        super().__init__(question, **options)
        self.asked: list[str] = []

    def may_read(self, topic: str) -> bool:
        self.asked.append(topic)
        return super().may_read(topic)


@pytest.mark.parametrize(
    "question",
    [
        "which robot is near table 3?",
        "테이블 3 근처 로봇은?",
        "how are the robots?",
        "any problems?",
        "which tables are calling?",
        "늦은 주문 있어?",
        "what happened?",
        "rice 얼마나 있어?",
        "alba-1 alba-2 alba-12 cook-1",
    ],
)
async def test_each_topic_is_read_once_for_a_question(question: str) -> None:
    kitchen, talk = Counting(), CountingTalk(question)
    for robot in kitchen.state["robots"]:
        robot |= {"x": 3.0, "y": 1.0}
    kitchen.state["tables"] = [
        {"id": n, "table_number": n, "x": float(n), "y": 1.0, "status": "CALLING", "customer_count": 1, "updated_at": at(0)}
        for n in range(1, 20)
    ]
    assert await RulesAssistant(kitchen).answer(talk)
    assert len(kitchen.read) == len(set(kitchen.read)) and len(talk.asked) == len(set(talk.asked))


async def test_after_asking_a_person_it_looks_again() -> None:
    kitchen = Kitchen()

    class Slow(Talk):
        async def clarify(self, question: str, options: list[str]) -> str:
            kitchen.state["robots"] = [robot | {"battery_level": 7.0} for robot in kitchen.state["robots"]]
            self._topics = TOPICS if self._reply == "alba-2" else ()
            return str(self._reply)

    assert "7%" in await RulesAssistant(kitchen).answer(Slow("서빙 로봇 어디?", reply="alba-2"))
    assert "권한" in await RulesAssistant(kitchen).answer(Slow("서빙 로봇 어디?", reply="alba-1"))


# -- on the running server: what another program wrote a moment ago ------------------------------------------------------------


@pytest.fixture(scope="module")
def rt(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("assistant")
    settings = {"AUTH__MODE": "local", "LIMITS__QUERY_REQUESTS": "1000", "DEVICES__OFFLINE_AFTER_S": "3600"}
    with Server(folder, **settings, SERVER__PORT=str(free_port())) as running:
        running.tell(
            *({"msg_type": "Albabot", "robot_id": f"alba-{n}", "battery_level": 50, "status": "IDLE"} for n in (1, 2, 12)),
            *({"msg_type": "Table", "table_number": n} for n in range(1, 6)),
        )
        for number in range(1, 6):
            running.sql("UPDATE table_ SET x = ?, y = 1 WHERE table_number = ?", 3 * number, number)
        yield running
        assert running.is_running and not faults_logged(running)


@pytest.fixture
async def ask(rt: Server) -> AsyncIterator[Callable[[str], Any]]:
    """Ask a question; return the answer's text."""
    app = SessionClient(rt.port, token=mint(rt.folder, "boss", "manager"))
    await app.connect()
    number = 0

    async def once(question: str) -> str:
        nonlocal number
        number += 1
        await asyncio.sleep(0.02)
        final = await app.ask(f"{datetime.now(UTC).timestamp()}-{number}", question)
        assert final["status"] == "completed", final
        return str(final["response"])

    yield once
    await app.close()


def ago(seconds: float) -> str:
    return (datetime.now(UTC) - timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


async def test_orders_are_refused_over_the_wire(ask: Callable[[str], Any]) -> None:
    assert "빨간 버튼" in await ask("alba-1 멈춰!")
    assert "red button" in await ask("Send alba-2 to table 3, please")


async def test_a_robot_is_where_another_program_put_it_a_moment_ago(rt: Server, ask: Callable[[str], Any]) -> None:
    for table, battery, status, ko, en in (
        (1, 81, "SERVING", "서빙 중", "serving"),
        (4, 7, "ERROR", "오류", "error"),
        (2, 100, "CHARGING", "충전 중", "charging"),
    ):
        rt.sql(
            "UPDATE robot SET x = ?, y = 1.5, battery_level = ?, status = ?, link = 'ONLINE' WHERE robot_id = 'alba-1'",
            *(3 * table, battery, status),
        )
        korean, english = await ask("alba-1 어디 있어? 어때?"), await ask("alba-1: where is it and how is it?")
        assert f"테이블 {table} 근처" in korean and ko in korean and f"{battery}%" in korean
        assert f"near table {table}" in english and en in english and f"{battery} %" in english
    rt.sql("UPDATE robot SET link = 'OFFLINE', last_seen = ? WHERE robot_id = 'alba-1'", ago(600))
    assert "종료됨" in (text := await ask("alba-1 상태")) and "10분 전" in text
    assert "2/3" in (text := await ask("로봇들 어때?")) or "3대 중 2대" in text
    rt.sql("DELETE FROM robot WHERE robot_id = 'alba-12'")
    assert "alba-12" not in await ask("how are the robots")
    rt.sql("INSERT INTO robot(robot_id, status) VALUES ('bravo-7', 'CLEANING')")
    assert "청소 중" in await ask("bravo-7 뭐 해?")


async def test_tables_that_call_and_wait_are_told_as_they_are_now(rt: Server, ask: Callable[[str], Any]) -> None:
    rt.sql("UPDATE table_ SET status = 'AVAILABLE'")
    rt.sql("DELETE FROM order_")
    assert "없습니다" in await ask("어느 테이블이 호출 중이야?") and "No table is calling" in await ask(
        "which tables are calling?"
    )
    rt.sql("UPDATE table_ SET status = 'CALLING', updated_at = ? WHERE table_number = 3", ago(200))
    rt.sql("UPDATE table_ SET status = 'CALLING', updated_at = ? WHERE table_number = 5", ago(400))
    text = await ask("호출한 테이블 있어?")
    assert text.index("테이블 5 (6분)") < text.index("테이블 3 (3분)")
    text = await ask("which tables are calling?")
    assert text.index("table 5 (6 min)") < text.index("table 3 (3 min)")
    numbers = dict(rt.sql("SELECT table_number, id FROM table_"))
    for id, (table, seconds) in enumerate({2: 300, 4: 900, 1: 60}.items(), start=1):
        rt.sql(
            "INSERT INTO order_(id, table_id, status, timestamp) VALUES (?, ?, 'PLACED', ?)", id, numbers[table], ago(seconds)
        )
    text = await ask("which table has waited longest?")
    assert text.index("table 4 (15 min)") < text.index("table 2 (5 min)") < text.index("table 1 (1 min)")
    rt.sql("UPDATE order_ SET status = 'SERVED' WHERE id = 2")
    text = await ask("제일 오래 기다리는 테이블은?")
    assert "15분" not in text and text.index("테이블 2 (5분)") < text.index("테이블 1 (1분)")


async def test_late_orders_are_told_as_they_are_now(rt: Server, ask: Callable[[str], Any]) -> None:
    rt.sql("DELETE FROM order_")
    assert "열린 주문이 없습니다" in await ask("늦은 주문 있어?")
    numbers = dict(rt.sql("SELECT table_number, id FROM table_"))
    rt.sql("INSERT INTO order_(id, table_id, status, timestamp) VALUES (11, ?, 'PREPARING', ?)", numbers[2], ago(100))
    rt.sql("INSERT INTO order_item(id, order_id, name, quantity) VALUES (11, 11, '라면', 3)")
    assert "none of them is late" in await ask("any late orders?")
    rt.sql("UPDATE order_ SET timestamp = ? WHERE id = 11", ago(1000))
    for text in (await ask("늦은 주문 있어?"), await ask("which orders are late?")):
        assert "16" in text and "라면 3" in text and ("테이블 2" in text or "table 2" in text)
    rt.sql("UPDATE order_ SET status = 'CANCELLED' WHERE id = 11")
    assert "라면" not in await ask("늦은 주문 있어?")


async def test_stock_is_told_as_it_is_now(rt: Server, ask: Callable[[str], Any]) -> None:
    rt.sql("DELETE FROM inventory")
    assert "부족한 재고가 없습니다" in await ask("부족한 재료 있어?")
    rt.sql("INSERT INTO inventory(name, count, max_count, threshold) VALUES ('김치', 40, 100, 5), ('쌀', 3, 100, 5)")
    text = await ask("what is running low?")
    assert "쌀 3" in text and "김치" not in text
    rt.sql("UPDATE inventory SET count = 0 WHERE name = '김치'")
    text = await ask("떨어진 재료 있어?")
    assert "김치 0 (품절)" in text and "쌀 3 (부족)" in text
    rt.sql("UPDATE inventory SET count = 77")
    assert "77/100" in await ask("김치 재고 얼마나 있어?") and "Nothing" in await ask("anything running low?")


async def test_events_of_the_last_minutes_are_told_as_they_are_now(rt: Server, ask: Callable[[str], Any]) -> None:
    rt.sql("DELETE FROM event")
    assert "아무 일도 없었습니다" in await ask("지난 10분 동안 무슨 일 있었어?")
    rt.sql("INSERT INTO event(id, type, description, timestamp) VALUES (1, 'CLEANING', 'spill', ?)", ago(500))
    rt.sql("INSERT INTO event(id, type, description, timestamp) VALUES (2, 'EMERGENCY', 'smoke', ?)", ago(1000))
    for question in ("지난 10분 동안 무슨 일 있었어?", "what happened in the last 10 minutes?"):
        text = await ask(question)
        assert "spill" in text and "smoke" not in text and "8" in text
    assert "smoke" in await ask("what happened in the last 20 minutes?")
    rt.sql("DELETE FROM event WHERE id = 2")
    assert "smoke" not in await ask("what happened in the last 20 minutes?")


async def test_a_role_hears_only_what_it_may_see(start_server: Callable[..., Server]) -> None:
    server = start_server(AUTH__MODE="local", RIGHTS__STAFF='["query", "read:robots"]')
    server.tell({"msg_type": "Albabot", "robot_id": "alba-1"}, {"msg_type": "Table", "table_number": 1})
    async with SessionClient(server.port, token=mint(server.folder, "anna", "staff")) as app:
        assert "alba-1" in (await app.ask("1", "alba-1 어디 있어?"))["response"]
        for number, question in enumerate(("호출한 테이블?", "늦은 주문?", "재고 부족?", "무슨 일 있었어?")):
            assert "권한이 없습니다" in (await app.ask(f"n{number}", question))["response"]


@pytest.fixture
def start_server(tmp_path: Any) -> Iterator[Callable[..., Server]]:
    """Start a server with settings of the test's own."""
    started: list[Server] = []

    def start(**settings: str) -> Server:
        started.append(Server(tmp_path, **settings).start())
        return started[-1]

    yield start
    for running in started:
        running.__exit__()
