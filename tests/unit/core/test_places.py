"""Whoever holds the most gives way; nobody who holds less does."""

import random

from robodyne_rt.core.places import Places


def filled(limit: int, per_holder: int | None = None, **holders: int) -> Places[str]:
    places: Places[str] = Places(limit=limit, per_holder=per_holder)
    for holder, count in holders.items():
        for number in range(count):
            assert places.take(holder, f"{holder}{number}") == (True, None)
    return places


def test_a_free_place_is_given_and_given_back() -> None:
    places = filled(2, a=2)
    places.leave("a", "a0")
    assert places.take("b", "b0") == (True, None)
    assert len(places) == 2
    assert (places.held_by("a"), places.held_by("b")) == (1, 1)


def test_who_holds_the_most_gives_up_what_it_held_longest() -> None:
    places = filled(6, a=4, b=2)
    assert places.take("c", "c0") == (True, "a0")
    assert places.take("c", "c1") == (True, "a1")
    assert places.take("a", "a9") == (True, "a2"), "its own, where nobody holds more"
    assert len(places) == 6


def test_nobody_gives_way_to_who_would_hold_as_much() -> None:
    places = filled(3, a=1, b=1, c=1)
    assert places.take("d", "d0") == (False, None)
    assert places.take("a", "a1") == (True, "a0")
    places = filled(4, a=2, b=2)
    assert places.take("c", "c0") == (True, "a0")
    assert places.take("c", "c1") == (True, "c0"), "it would hold as much as the largest: its own gives way"


def test_one_holder_is_bounded_and_replaces_its_own() -> None:
    places = filled(10, per_holder=2, a=2)
    assert places.take("a", "a2") == (True, "a0")
    assert places.held_by("a") == 2
    for item in ("a1", "a2"):
        places.pin("a", item)
    assert places.take("a", "a3") == (False, None), "at its bound, though others have places free"
    assert places.take("b", "b0") == (True, None)


def test_what_is_pinned_stays_until_it_is_unpinned() -> None:
    places = filled(3, a=3)
    places.pin("a", "a0")
    assert places.take("b", "b0") == (True, "a1")
    places.unpin("a", "a0")
    places.pin("a", "a2")
    assert places.take("a", "a4") == (True, "a0")


def test_what_was_used_last_gives_way_last() -> None:
    places = filled(3, a=3)
    places.pin("a", "a0")
    places.unpin("a", "a0")
    assert places.take("b", "b0") == (True, "a1")


def test_the_books_are_right_after_anything() -> None:
    chance = random.Random(5)
    places: Places[int] = Places(limit=40, per_holder=25)
    there: dict[int, int] = {}
    pinned: set[int] = set()
    for number in range(20_000):
        holder = min(chance.randrange(12), chance.randrange(12))
        match chance.randrange(5):
            case 0 | 1:
                mine = [item for item, by in there.items() if by == holder]
                movable = {by: [i for i in there if there[i] == by and i not in pinned] for by in range(12)}
                largest = max(len(items) for items in movable.values())
                taken, victim = places.take(holder, number)
                if len(mine) < 25 and len(there) < 40:
                    assert (taken, victim) == (True, None)
                elif taken:
                    assert victim is not None
                    assert victim in movable[there[victim]] and (
                        there[victim] == holder or len(movable[there[victim]]) == largest
                    )
                else:
                    assert not movable[holder] or len(mine) < 25
                if victim is not None:
                    del there[victim]
                if taken:
                    there[number] = holder
            case 2 if there:
                item = chance.choice(list(there))
                places.leave(there.pop(item), item)
                pinned.discard(item)
            case 3 if there:
                pinned.add(item := chance.choice(list(there)))
                places.pin(there[item], item)
            case 4 if there:
                pinned.discard(item := chance.choice(list(there)))
                places.unpin(there[item], item)
        assert len(places) == len(there) <= 40
        assert all(places.held_by(by) == list(there.values()).count(by) <= 25 for by in range(12))
