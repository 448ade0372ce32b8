"""What a snapshot shows, kept as changes come."""

from hypothesis import given
from hypothesis import strategies as st

from robodyne_rt.core.window import Window, size_of, sizes_of
from robodyne_rt.model.changes import Entity, Update

changes = st.lists(st.tuples(st.integers(1, 12), st.one_of(st.none(), st.text(max_size=20))), max_size=40)


def entity(key: int, text: str = "") -> Entity:
    return {"id": key, "text": text}


@given(changes, st.one_of(st.none(), st.integers(1, 5)))
def test_it_holds_the_newest_rows_in_order_and_knows_their_size(steps: list[tuple[int, str | None]], rows: int | None) -> None:
    window = Window(Update("events", 0, 0, snapshot=True), rows=rows)
    model: dict[int, Entity] = {}
    for key, text in steps:
        if text is None:
            window.apply({}, [key], {})
            model.pop(key, None)
        else:
            new = {key: entity(key, text)}
            window.apply(new, [], sizes_of(new))
            model |= new
        if rows is not None:
            model = {key: model[key] for key in sorted(model)[-rows:]}
        assert list(window.entities.items()) == sorted(model.items())
        assert window.size_bytes == sum(sizes_of(model).values())


def test_it_forgets_what_left_it() -> None:
    window = Window(Update("orders", 0, 3, {key: entity(key) for key in (1, 2, 3)}, snapshot=True), rows=None)
    window.retain({2, 7})
    assert list(window.entities) == [2] and window.size_bytes == sum(sizes_of({2: entity(2)}).values())


def test_what_an_entity_weighs_is_more_than_its_text() -> None:
    assert size_of(b"") > 500 and size_of(b"x" * 1000) - size_of(b"") == 2000
