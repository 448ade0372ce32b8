"""Memory is given back when much was freed."""

import pytest

from robodyne_rt.app import memory_trim


async def test_it_is_given_back_only_when_it_is_worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_trim, "LOOK_S", 0.001)
    sizes = [100, 100 + memory_trim.WORTH_BYTES, 100, 101 + memory_trim.WORTH_BYTES, 90, 90]
    trimmed: list[int] = []

    class Over(Exception):
        """All sizes were looked at."""

    def resident() -> int:
        if not sizes:
            raise Over
        return sizes.pop(0)

    with pytest.raises(Over):
        await memory_trim.give_back(trimmed.append, resident)
    assert trimmed == [0]


def test_this_process_takes_memory_and_can_give_some_back() -> None:
    assert memory_trim.resident_bytes() > 1 << 20
    trim = memory_trim.glibc_trim()
    assert trim is None or trim(0) in (0, 1)
