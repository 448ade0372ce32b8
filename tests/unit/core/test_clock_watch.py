"""Nothing is deleted for its age by a clock that may be wrong."""

from robodyne_rt.core.clock_watch import CALM_S, JUMP_S, LEAD_S, ClockWatch

WALL = 1_795_000_000.0


def watch(*, noted_at: float = WALL - 86400) -> ClockWatch:
    return ClockWatch(noted_at=noted_at, wall=WALL, now=0.0)


def test_nothing_is_deleted_in_the_first_hour() -> None:
    clock = watch()
    clock.tick(wall=WALL + CALM_S - 1, now=CALM_S - 1, is_synchronised=False)
    assert not clock.may_delete
    clock.tick(wall=WALL + CALM_S, now=CALM_S, is_synchronised=False)
    assert clock.may_delete


def test_nothing_is_deleted_in_the_hour_after_a_jump_in_either_direction() -> None:
    for jump in (JUMP_S + 1, -JUMP_S - 1, 500 * 86400.0):
        clock = watch()
        clock.tick(wall=WALL + 5000, now=5000, is_synchronised=True)
        assert clock.may_delete
        assert clock.tick(wall=WALL + 5010 + jump, now=5010, is_synchronised=True)
        assert not clock.may_delete
        assert not clock.tick(wall=WALL + 5010 + jump + CALM_S, now=5010 + CALM_S, is_synchronised=True)
        assert clock.may_delete


def test_a_clock_that_is_adjusted_a_little_is_no_jump() -> None:
    clock = watch()
    assert not clock.tick(wall=WALL + 5000 + JUMP_S - 1, now=5000, is_synchronised=False)
    assert clock.may_delete


def test_a_clock_far_ahead_of_the_note_is_doubtful_until_the_kernel_vouches_for_it() -> None:
    clock = watch(noted_at=WALL - LEAD_S - 1)
    for hour in range(1, 200):
        clock.tick(wall=WALL + hour * 3600, now=hour * 3600, is_synchronised=False)
        assert clock.is_doubtful and not clock.may_delete
    clock.tick(wall=WALL + 200 * 3600, now=200 * 3600, is_synchronised=True)
    assert not clock.is_doubtful and clock.may_delete
    clock.tick(wall=WALL + 201 * 3600, now=201 * 3600, is_synchronised=False)
    assert clock.may_delete  # it was right then, and ran evenly since


def test_a_box_that_was_off_for_a_month_is_believed_and_so_is_a_new_one() -> None:
    for noted_at in (WALL - LEAD_S + 1, 0.0):
        clock = watch(noted_at=noted_at)
        clock.tick(wall=WALL + CALM_S, now=CALM_S, is_synchronised=False)
        assert clock.may_delete


def test_a_doubtful_clock_does_not_spoil_what_the_next_run_knows() -> None:
    ahead = WALL + 3 * 365 * 86400
    clock = ClockWatch(noted_at=WALL, wall=ahead, now=0.0)
    assert clock.believed_at(wall=ahead, now=0.0) == WALL
    clock.tick(wall=ahead + 7200, now=7200, is_synchronised=False)
    noted = clock.believed_at(wall=ahead + 7200, now=7200)
    assert noted == WALL + 7200
    again = ClockWatch(noted_at=noted, wall=ahead + 7300, now=0.0)
    again.tick(wall=ahead + 7300 + CALM_S, now=CALM_S, is_synchronised=False)
    assert again.is_doubtful and not again.may_delete


def test_a_boot_in_the_past_does_not_lower_the_note_and_a_synchronised_clock_does() -> None:
    clock = ClockWatch(noted_at=WALL, wall=5.0, now=0.0)
    assert clock.believed_at(wall=105.0, now=100.0) == WALL + 100
    clock.tick(wall=WALL - 5000, now=200.0, is_synchronised=True)
    assert clock.believed_at(wall=WALL - 5000, now=200.0) == WALL - 5000


def test_a_clock_that_jumps_by_a_year_while_serving_stays_doubtful() -> None:
    clock = watch()
    clock.tick(wall=WALL + 5000, now=5000, is_synchronised=True)
    for hour in range(1, 50):
        clock.tick(wall=WALL + 5000 + 365 * 86400 + hour * 3600, now=5000 + hour * 3600, is_synchronised=False)
        assert clock.is_doubtful and not clock.may_delete
