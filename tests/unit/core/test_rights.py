"""A right is asked in one place: who has it passes, who is nobody is told to log in, everybody else is told why not."""

import pytest

from robodyne_rt.core.rights import require, require_topic
from robodyne_rt.model.access import ANONYMOUS, Principal
from robodyne_rt.protocol.errors import Forbidden, TokenMissing

KIM = Principal("kim", frozenset({"staff"}), frozenset({"read:robots", "query"}))
BOSS = Principal("boss", frozenset({"admin"}), frozenset({"*"}))
NOBODY = Principal(ANONYMOUS, frozenset(), frozenset(), place_rights=frozenset({"read:orders"}), is_anonymous=True)


def test_who_has_a_right_passes() -> None:
    require(KIM, "query", "asking")
    require(BOSS, "administer", "anything")
    require_topic(KIM, "robots")
    require_topic(NOBODY, "orders")


def test_who_is_known_and_has_it_not_is_told_so() -> None:
    with pytest.raises(Forbidden, match="kim may not: the right to administer is not among the rights of staff"):
        require(KIM, "administer", "the right to administer")
    with pytest.raises(Forbidden, match="topic orders"):
        require_topic(KIM, "orders")


def test_who_is_nobody_is_told_to_log_in() -> None:
    with pytest.raises(TokenMissing, match="topic robots needs a token"):
        require_topic(NOBODY, "robots")
