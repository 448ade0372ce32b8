"""Single words of the assistant in Korean and English: which language is asked in, numbers, ages, particles.

The sentences stand in `rules.py`, beside what they tell.
"""

import re
import unicodedata
from typing import Literal

Code = Literal["ko", "en"]

_HANGUL = re.compile("[가-힣ㄱ-ㅎㅏ-ㅣ\u1100-\u11ff]")
_UNSEEN = re.compile("[\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufe00-\ufe0f\ufeff]")


def language_of(text: str) -> Code:
    """Return the language of a question: Korean where it holds one Korean letter."""
    return "ko" if _HANGUL.search(text) else "en"


def normalized(text: str) -> str:
    """Return a text as it is compared: in lower case, one form of each letter (NFKC), nothing that is not seen."""
    text = unicodedata.normalize("NFKC", _UNSEEN.sub("", text)).lower()
    return text.replace("’", "'").replace("‐", "-").replace("‑", "-")


def josa(word: str, pair: str) -> str:
    """Return a word with its particle, which follows its last sound: `josa("로봇", "이/가")` is `로봇이`."""
    with_final, without_final = pair.split("/")
    last = next((char for char in reversed(word) if char.isalnum()), "")
    if "가" <= last <= "힣":
        final = (ord(last) - ord("가")) % 28
    elif last.isdigit():
        final = {"0": 21, "1": 8, "3": 16, "6": 1, "7": 8, "8": 8}.get(last, 0)  # 영 일 삼 육 칠 팔
    else:
        final = {"l": 8, "m": 16, "n": 4, "r": 8}.get(last.lower(), 0)
    if pair == "으로/로":
        return word + ("으로" if final not in (0, 8) else "로")
    return word + (with_final if final else without_final)


def age(seconds: float, code: Code) -> str:
    """Return a duration for people: `3분`, `1 h 5 min`."""
    whole = max(0, int(seconds))
    hours, minutes = whole // 3600, whole % 3600 // 60
    if whole < 60:
        return f"{whole}초" if code == "ko" else f"{whole} s"
    if not hours:
        return f"{minutes}분" if code == "ko" else f"{minutes} min"
    if code == "ko":
        return f"{hours}시간 {minutes}분" if minutes else f"{hours}시간"
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"


def number(value: float) -> str:
    """Return a number without a needless fraction."""
    return f"{value:.1f}".removesuffix(".0")


WORDS: dict[str, dict[str, tuple[str, str]]] = {
    "robot": {
        "IDLE": ("대기", "idle"),
        "SETTING": ("세팅 중", "setting"),
        "COOKING": ("조리 중", "cooking"),
        "PICKUP": ("픽업 중", "pickup"),
        "SERVING": ("서빙 중", "serving"),
        "CLEANING": ("청소 중", "cleaning"),
        "CHARGING": ("충전 중", "charging"),
        "EMERGENCY": ("비상", "emergency"),
        "MAINTENANCE": ("정비 중", "maintenance"),
        "SECURITY": ("보안 순찰", "security"),
        "BIRTHDAY": ("생일 축하", "birthday"),
        "ERROR": ("오류", "error"),
    },
    "link": {
        "ONLINE": ("연결됨", "online"),
        "OFFLINE": ("종료됨", "offline"),
        "CONNECTIONBROKEN": ("연결 끊김", "link broken"),
    },
    "table": {
        "AVAILABLE": ("빈자리", "free"),
        "OCCUPIED": ("식사 중", "occupied"),
        "RESERVED": ("예약", "reserved"),
        "CALLING": ("호출", "calling"),
        "CLEANING": ("정리 중", "cleaning"),
    },
    "order": {
        "PLACED": ("접수", "placed"),
        "PREPARING": ("조리 중", "preparing"),
        "READY": ("완성", "ready"),
        "SERVING": ("서빙 중", "serving"),
        "SERVED": ("완료", "served"),
        "CANCELLED": ("취소", "cancelled"),
    },
    "stock": {
        "IN_STOCK": ("충분", "in stock"),
        "LOW_STOCK": ("부족", "low"),
        "OUT_OF_STOCK": ("품절", "out of stock"),
    },
    "event": {
        "WELCOME": ("손님 입장", "welcome"),
        "CALL": ("직원 호출", "call"),
        "BIRTHDAY": ("생일", "birthday"),
        "EMERGENCY": ("비상", "emergency"),
        "CLEANING": ("정리 요청", "cleaning"),
        "ERROR": ("오류", "error"),
        "INFO": ("알림", "info"),
        "CHAT": ("대화", "chat"),
        "LINK": ("연결", "link"),
    },
}
"""The words that the page has for the same codes."""


def word(kind: str, code_word: str, code: Code) -> str:
    """Return a code of the wire in words; an unknown code speaks for itself."""
    both = WORDS[kind].get(code_word)
    return code_word if both is None else both[0 if code == "ko" else 1]
