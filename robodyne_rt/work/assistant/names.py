"""Which robot, or which ingredient, is meant: names as people say them, in Korean and English."""

import re
from typing import NamedTuple

from robodyne_rt.model.changes import Entity

# How robots' names are said in Korean, longest first.
_SPOKEN = (("알바봇", "alba"), ("알바", "alba"), ("쿡봇", "cook"), ("핑키", "pinky"))

_KINDS = (("ALBABOT", r"서빙|서브|\bserving\b|\bserver robots?\b"), ("COOKBOT", r"조리|요리|\bcook(?:ing|bots?)\b"))


class Named(NamedTuple):
    """Which robots a text may mean.

    Attributes:
        robots: none where it names none.
        is_certain: whether nobody needs to ask which one is meant.
        in_full: whether each is named as it is called, and not by its kind or number.
        unknown: a name that nobody bears.
    """

    robots: list[Entity]
    is_certain: bool = False
    in_full: bool = False
    unknown: str = ""


def named(text: str, robots: list[Entity]) -> Named:
    """Return which robots a question, in lower case, may mean."""
    for spoken, written in (("", ""), *_SPOKEN):
        text = text.replace(spoken, written) if spoken else text
        if exact := [r for r in robots if any(_stands_in(name, text) for name in (r["robot_id"], r["name"]) if name)]:
            return Named(exact, True, True)
    stems = {match[0] for robot in robots if (match := re.match(r"[^\W\d_]{2,}", robot["robot_id"].lower()))}
    match = re.search(r"(?<![a-z0-9])([a-z]{2,})([-_ ]?)\d{1,9}(?![a-z0-9])", text)
    if match and (match[1] in stems or match[2].strip()):
        return Named([], unknown=match[0])
    found = robots
    narrowed = False
    for stem in stems:
        if re.search(rf"(?<![a-z]){re.escape(stem)}(?![a-z0-9])", text):
            found, narrowed = [robot for robot in found if robot["robot_id"].lower().startswith(stem)], True
    for kind, pattern in _KINDS:
        if re.search(pattern, text):
            found, narrowed = [robot for robot in found if robot["type"] == kind], True
    if match := re.search(r"(\d{1,4})\s*(?:번|호)(?!\s*테이블)|(?:로봇|robot|no\.?|#)\s*(\d{1,4})(?!\s*대|\d)", text):
        wanted = match[1] or match[2]
        found = [robot for robot in found if re.search(rf"(?<!\d){wanted}$", robot["robot_id"])]
        if not found:
            return Named([], unknown=match[0])
        narrowed = True
    return Named(sorted(found, key=lambda robot: robot["robot_id"]), len(found) == 1) if narrowed else Named([])


def is_mentioned(name: str, text: str) -> bool:
    """Return whether something is named in a question: as a word, not inside of another; a particle may follow."""
    name = name.lower()
    if name.isascii():
        return re.search(rf"(?<![a-z0-9]){re.escape(name)}s?(?![a-z0-9])", text) is not None
    after = r"(?=(?:은|는|이|가|도|을|를|만)?(?:[\s?.!,]|$))" if len(name) == 1 else ""
    spaced = r"\s*".join(map(re.escape, name.replace(" ", "")))
    return re.search(rf"(?<![가-힣]){spaced}{after}", text) is not None


def _stands_in(name: str, text: str) -> bool:
    """Return whether a name stands in a text: `alba-1` also as `alba 1` or `alba1`, but not in `alba-12`."""
    parts = re.findall(r"\d+|[^\W\d_]+", name.lower())
    pattern = r"[\s_\-]*".join(map(re.escape, parts))
    return bool(parts) and re.search(rf"(?<![a-z0-9]){pattern}(?![a-z0-9])", text) is not None
