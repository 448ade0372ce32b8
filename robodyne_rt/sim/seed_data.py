"""What a restaurant has before it opens: tables with their places, a menu, a store room, cameras.

`seed_data` writes it as any other program would: straight into the server's database, so that the change log carries it out.
"""

import contextlib
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Place:
    """A table on the floor plan; metres, `x y` is its middle."""

    number: int
    x: float
    y: float
    width: float = 1.2
    height: float = 0.9
    seats: int = 4


@dataclass(frozen=True, slots=True)
class Dish:
    """A dish of the menu; `price` in won."""

    name: str
    name_en: str
    price: int
    prepare_s: int
    station: str
    ingredients: tuple[str, ...]


MENU = (
    Dish("비빔밥", "Bibimbap", 11000, 420, "rice", ("쌀", "채소", "달걀")),
    Dish("불고기", "Bulgogi", 16000, 600, "grill", ("소고기", "채소")),
    Dish("김치찌개", "Kimchi stew", 10000, 480, "stew", ("김치", "두부", "돼지고기")),
    Dish("된장찌개", "Soybean stew", 10000, 480, "stew", ("두부", "채소")),
    Dish("잡채", "Japchae", 12000, 420, "wok", ("당면", "채소", "소고기")),
    Dish("떡볶이", "Tteokbokki", 8000, 360, "wok", ("떡", "채소")),
    Dish("치킨", "Fried chicken", 19000, 720, "fry", ("닭고기",)),
    Dish("냉면", "Cold noodles", 11000, 360, "noodles", ("면", "달걀")),
)

INGREDIENTS = {
    "쌀": "rice",
    "채소": "vegetables",
    "달걀": "eggs",
    "소고기": "beef",
    "김치": "kimchi",
    "두부": "tofu",
    "돼지고기": "pork",
    "당면": "glass noodles",
    "떡": "rice cake",
    "닭고기": "chicken",
    "면": "noodles",
}


def table_places(count: int) -> list[Place]:
    """Return the places of `count` tables in rows of five."""
    return [Place(index + 1, 6.2 + 2.9 * (index % 5), 1.9 + 2.7 * (index // 5)) for index in range(count)]


class CannotSeed(Exception):
    """The database is none of this server, or cannot be reached."""


def seed_data(url: str, *, tables: int) -> None:
    """Fill the server's database where it has no menu yet.

    Args:
        url: as in `[database] url`, or a SQLite file.
    Raises:
        CannotSeed: the database is none of this server; start the server on it first.
    """
    with _connect(url) as database:
        if database.ask("SELECT 1 FROM menu_item LIMIT 1"):
            return
        database.run(
            "INSERT INTO table_(table_number, max_customer, x, y, width, height) VALUES (?, ?, ?, ?, ?, ?)"
            " ON CONFLICT(table_number) DO UPDATE SET x = excluded.x, y = excluded.y,"
            " width = excluded.width, height = excluded.height",
            [(place.number, place.seats, place.x, place.y, place.width, place.height) for place in table_places(tables)],
        )
        database.run("INSERT INTO ingredient(name, name_en) VALUES (?, ?)", INGREDIENTS.items())
        database.run(
            "INSERT INTO inventory(ingredient_id, name, count, max_count, threshold)"
            " SELECT id, name, 80, 100, 15 FROM ingredient",
            [()],
        )
        for dish in MENU:
            ((id,),) = database.ask(
                "INSERT INTO menu_item(name, name_en, price, prepare_time, station) VALUES (?, ?, ?, ?, ?) RETURNING id",
                (dish.name, dish.name_en, dish.price, dish.prepare_s, dish.station),
            )
            database.run(
                "INSERT INTO menu_item_ingredient(menu_item_id, ingredient_id, quantity)"
                " SELECT ?, id, 1 FROM ingredient WHERE name = ?",
                [(id, name) for name in dish.ingredients],
            )
        database.run(
            "INSERT INTO video_stream(name, source_type, url, status) VALUES (?, ?, ?, ?)",
            [
                ("hall", "GLOBAL_CAM", "http://camera.local/hall.mjpg", "ACTIVE"),
                ("cook-1", "COOKBOT", "http://camera.local/cook-1.mjpg", "INACTIVE"),
            ],
        )


class _Foreign:
    """Another program's transaction, through the database's own driver."""

    def __init__(self, cursor: Any, mark: str) -> None:
        self._cursor = cursor
        self._mark = mark

    def ask(self, statement: str, parameters: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        self._cursor.execute(statement.replace("?", self._mark), parameters)
        rows: list[tuple[Any, ...]] = self._cursor.fetchall()
        return rows

    def run(self, statement: str, rows: Iterable[tuple[Any, ...]]) -> None:
        for row in rows:
            self._cursor.execute(statement.replace("?", self._mark), row)


@contextlib.contextmanager
def _connect(url: str) -> Iterator[_Foreign]:
    error: type[Exception]
    connect: Callable[[], Any]
    if url.startswith("postgres"):
        import psycopg

        connect, error, mark = (lambda: psycopg.connect(url.replace("+psycopg", ""))), psycopg.Error, "%s"
    else:
        connect, error, mark = (lambda: sqlite3.connect(url.removeprefix("sqlite:///"), timeout=10)), sqlite3.Error, "?"
    try:
        with contextlib.closing(connect()) as connection, connection:
            yield _Foreign(connection.cursor(), mark)
    except error as failure:
        raise CannotSeed(str(failure).strip()) from failure
