"""Which robot, table or ingredient is meant: names as people say them, in Korean and English.

A name counts where it stands whole: `alba-1` is not found in `alba-12`, nor `1` in `alba-1`. A particle may follow: `alba-1을`.
All texts are normalized (`language.normalized`).
"""

import re
from typing import NamedTuple

from robodyne_rt.model.changes import Entity
from robodyne_rt.work.assistant.language import normalized

_PARTICLE = (
    "(?:에게서|한테서|으로|에게|한테|에서|까지|부터|이랑|하고|이나|이는|이가|들은|들이|"
    "은|는|이|가|을|를|에|로|와|과|랑|도|만|의|야|아|들|님|씨)?"
)
_PART = re.compile(r"\d+|[가-힣]+|[^\W\d_가-힣]+")
_JOINT = re.compile(r"[\s_\-]*")
_GOES_ON_BEFORE = re.compile(r"[a-z0-9][-_]?$")
_GOES_ON = re.compile(r"[-_]?[a-z0-9]|\.\d")

# How robots' names are said in Korean, longest first.
_SPOKEN = tuple(
    (re.compile(rf"{spoken}(?=[\s_\-]*\d|{_PARTICLE}(?![가-힣]))"), written)
    for spoken, written in (("알바봇", "alba"), ("알바", "alba"), ("쿡봇", "cook"), ("핑키", "pinky"))
)

_KINDS = (("ALBABOT", r"서빙|서브|\bserving\b|\bserver robots?\b"), ("COOKBOT", r"조리|요리|\bcook(?:ing|bots?)\b"))

# `zulu-1`, `alba 7`, `alba-x`: what looks like the name of a robot.
_NAME_LIKE = re.compile(
    r"(?<![a-z0-9])(?<![a-z0-9][-_])([a-z]{2,})(?:[-_ ]?\d|[-_][a-z])[a-z0-9]*(?:[-_.][a-z0-9]+)*(?![a-z0-9])"
)
_NOT_OF_ROBOTS = re.compile("tables?|orders?|events?|items?|menu|room|top|last|past|next|robots?|no")

_NUMBER = re.compile(
    r"(?<![\d.])(?<!테이블)(?<!테이블 )(?<!table )(\d{1,9})\s*(?:번|호)(?!\s*(?:테이블|자리|손님|좌석|주문|룸|방|홀|문|메뉴))|"
    r"(?:로봇|robot|no\.?|#)[\s\-_]*(\d{1,9})(?!\d|\s*대)"
)

_TABLE = re.compile(
    r"(?<![a-z])tables?[\s\-_]*(?:no\.?|number|#)?\s*(\d{1,9})(?!\d|[.,]\d|[a-z]|\s*(?:min|hour|h\b|guests|people))|"
    r"테이블[\s\-_]*#?\s*(\d{1,9})(?!\d|[.,]\d|\s*(?:개|시간|분|명|인|대|곳))|"
    r"(?<![\d.])(\d{1,9})\s*번?\s*테이블"
)


class Named(NamedTuple):
    """Which robots a text may mean.

    Attributes:
        robots: none where it names none.
        is_certain: whether nobody needs to ask which one is meant.
        in_full: whether each is named as it is called, and not by its kind or number.
        unknown: names that nobody bears.
        rest: the text without the names that it holds in full.
    """

    robots: list[Entity]
    is_certain: bool = False
    in_full: bool = False
    unknown: tuple[str, ...] = ()
    rest: str = ""


def named(text: str, robots: list[Entity]) -> Named:
    """Return which robots a text may mean."""
    known = _in_full(text, robots)
    if not known:
        for spoken, written in _SPOKEN:
            text = spoken.sub(written, text)
        known = _in_full(text, robots)
    stems = {match[0] for robot in robots if (match := re.match(r"[^\W\d_]{2,}", normalized(robot["robot_id"])))}
    strange = [
        span for span in _names_like(text, stems) if not any(start <= span[0] and span[1] <= end for start, end, _ in known)
    ]
    known = [span for span in known if not any(start <= span[0] and span[1] <= end for start, end in strange)]
    unknown = tuple(text[start:end] for start, end in strange)
    if known or unknown:
        found = {id(robot): robot for _, _, robot in known}
        rest = text
        for start, end in sorted([*((start, end) for start, end, _ in known), *strange], reverse=True):
            rest = re.sub(rf"^{_PARTICLE}(?![가-힣])", "", rest[end:]).join((rest[:start] + " ", ""))
        return Named(list(found.values()), bool(found), bool(found), unknown, rest)
    return _by_kind_or_number(text, robots, stems)


def _in_full(text: str, robots: list[Entity]) -> list[tuple[int, int, Entity]]:
    """Return where robots' whole names stand, as (start, end, robot); `alba-1` also as `alba 1` or `alba1`."""
    bearers: dict[str, list[Entity]] = {}
    most_parts = 1
    for robot in robots:
        for name in {robot["robot_id"], robot["name"]} - {None}:
            parts = _PART.findall(normalized(name))
            most_parts = max(most_parts, len(parts) + 1)
            bearers.setdefault(_key(parts), []).append(robot)
    found = []
    parts_of_text = list(_PART.finditer(text))
    for index, first in enumerate(parts_of_text):
        start, end, pieces = first.start(), first.start(), list[str]()
        if _GOES_ON_BEFORE.search(text[max(0, start - 2) : start]):
            continue
        for part in parts_of_text[index : index + most_parts]:
            if pieces and not _JOINT.fullmatch(text, end, part.start()):
                break
            end = part.end()
            for cut in _ends(part[0]):
                key, place = _key([*pieces, part[0][:cut]]), (start, part.start() + cut)
                if key in bearers and not _GOES_ON.match(text, place[1]) and _is_meant(key, text, *place):
                    found += [(*place, robot) for robot in bearers[key]]
            pieces.append(part[0])
    return [span for span in found if not any(_holds(other, span) for other in found)]


def _key(parts: list[str]) -> str:
    """Return a name without what people leave out; `1-2` is not `12`."""
    return re.sub(r"(?<=\d)_(?=\D)|(?<=\D)_", "", "_".join(parts))


def _ends(part: str) -> list[int]:
    """Return where a name may end in a run of letters: at its end, or before a particle."""
    cuts = range(1, len(part)) if "가" <= part[-1] <= "힣" else ()
    return [len(part), *(cut for cut in cuts if re.fullmatch(_PARTICLE, part[cut:]))]


def _is_meant(key: str, text: str, start: int, end: int) -> bool:
    """Return whether a name is meant: one that is only a number or a letter, where a robot is spoken of or nothing else."""
    if _is_of_table(text, start, end):
        return False
    if not key.isdigit() and (len(key) > 1 or not key.isascii()):
        return True
    before, after = text[:start], text[end:]
    return (
        re.search(r"(?:로봇|robot|no\.?|#)[\s\-_]*$", before) is not None
        or re.match(r"\s*[번호]\s*로봇", after) is not None
        or (not before.strip() and re.fullmatch(rf"{_PARTICLE}\W*", after) is not None)
    )


def _is_of_table(text: str, start: int, end: int) -> bool:
    """Return whether the number that a name seems to end in is a table's: `alba 1번 테이블`."""
    return " " in text[start:end] and re.match(r"\s*번?\s*(?:테이블|자리|손님|좌석|주문)", text[end:]) is not None


def _holds(outer: tuple[int, int, Entity], inner: tuple[int, int, Entity]) -> bool:
    return outer[0] <= inner[0] and inner[1] <= outer[1] and outer[:2] != inner[:2]


def _names_like(text: str, stems: set[str]) -> list[tuple[int, int]]:
    """Return where something stands that looks like a robot's name: like those that are known, or alone in the text."""
    found = []
    for match in _NAME_LIKE.finditer(text):
        stem, name = match[1], match[0]
        is_alone = re.fullmatch(rf"\s*{_PARTICLE}\W*", text[: match.start()] + text[match.end() :]) is not None
        is_hyphened = re.search(r"[-_]", name) is not None and re.search(r"\d", name) is not None
        is_robots = stem in stems or ((is_hyphened or is_alone) and _NOT_OF_ROBOTS.fullmatch(stem) is None)
        if is_robots and not _is_of_table(text, *match.span()):
            found.append(match.span())
    return found


def _by_kind_or_number(text: str, robots: list[Entity], stems: set[str]) -> Named:
    found = robots
    narrowed = False
    for stem in stems:
        after = rf"(?={_PARTICLE}(?![가-힣]))" if "가" <= stem[-1] <= "힣" else "(?![-_]?[a-z0-9])"
        before = "(?<![가-힣])" if "가" <= stem[0] <= "힣" else "(?<![a-z])"
        if re.search(before + re.escape(stem) + after, text):
            found, narrowed = [robot for robot in found if normalized(robot["robot_id"]).startswith(stem)], True
    for kind, pattern in _KINDS:
        if re.search(pattern, text):
            found, narrowed = [robot for robot in found if robot["type"] == kind], True
    if match := _NUMBER.search(text):
        wanted = match[1] or match[2]
        found = [robot for robot in found if re.search(rf"(?<!\d){wanted}$", robot["robot_id"])]
        if not found:
            return Named([], unknown=(match[0],))
        narrowed = True
    return Named(sorted(found, key=lambda robot: robot["robot_id"]), len(found) == 1) if narrowed else Named([])


def table_named(text: str) -> int | None:
    """Return the number of the table that a text means: `table 3`, `3번 테이블로`."""
    match = _TABLE.search(text)
    return int(match[1] or match[2] or match[3]) if match else None


def is_mentioned(name: str, text: str) -> bool:
    """Return whether something is named in a text: as a word, not inside of another; a particle may follow."""
    name = normalized(name)
    if name.isascii():
        return re.search(rf"(?<![a-z0-9]){re.escape(name)}s?(?![a-z0-9])", text) is not None
    after = r"(?=(?:은|는|이|가|도|을|를|만)?(?:[\s?.!,]|$))" if len(name) == 1 else ""
    spaced = r"\s*".join(map(re.escape, name.replace(" ", "")))
    return re.search(rf"(?<![가-힣]){spaced}{after}", text) is not None
