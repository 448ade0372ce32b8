"""Is somebody told to do something? Orders in Korean and English, polite or blunt, told apart from questions.

The assistant carries out nothing. What sounds like an order must never get an answer that reads as if it were done, so that
where it is in doubt, it is an order: a question that is refused costs a second try, a stop that is answered costs more.
English tells by the place of a verb (`stop` leads, or nothing governs it), Korean by its ending (`멈춰`, `정지해 줘`), wherever
the spaces are.
"""

import re
from itertools import pairwise

_PARTS = re.compile(r"[.!?,;:~…\n()\"“”/|]+|\s[-–—]+\s|[–—]|\b(?:and|then|but|so|because)\b")


def is_imperative(text: str) -> bool:
    """Return whether a text, normalized, tells somebody to do something, whatever else it holds."""
    text = re.sub(r"([^\W\d])\1{2,}", r"\1", text)  # stooop
    return _is_korean_order(text) or _is_english_order(text)


def is_plain(text: str, rest: str) -> bool:
    """Return whether a text that names a robot plainly asks about it: it has the form of a question, or besides the names
    (`rest`) nothing but words of what can be asked. Of anything else nobody knows whether it is an order."""
    words = _WORD.findall(rest)
    asks = bool(words) and (words[0] in _WH or words[0] in _AUXILIARIES or words[0] in _ANY or words[0] in _INFORM)
    if asks or "?" in text or re.search(_KO_WH, rest) or _INFO.search(re.sub(r"\s+", "", rest)) or _is_asked_in_korean(rest):
        return True
    return _ABOUT.issuperset(words) and not re.search(r"[^\W\d_a-z]", re.sub(_KO_ABOUT, "", rest))


def _is_asked_in_korean(text: str) -> bool:
    """Return whether a text ends as questions do, or tells what was (`왔어`)."""
    ending = re.search(r"([가-힣])(?:어|나|냐|니|지)(?:요)?\W*$", text)
    return re.search(r"(?:나요|까|까요|는지|은지|죠|던가|있어|없어)(?:요)?\W*$", text) is not None or (
        ending is not None and (ord(ending[1]) - ord("가")) % 28 == _SSANG_SIOT
    )


# -- English -----------------------------------------------------------------------------------------------------------------

_WORD = re.compile(r"[a-z]+(?:'[a-z]+)?|\d+")


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_ACTIONS = _words(
    "stop stopp halt freeze abort cease quit estop brake go come send bring deliver fetch carry move drive navigate return "
    "resume cancel pause unpause undo delete remove dispatch turn switch shut restart reboot reset start launch begin continue "
    "proceed follow guide escort push pull raise rotate spin dance jump hurry undock recharge evacuate disable enable activate "
    "deactivate unlock engage disengage release kill terminate reverse retreat stay leave grab drop put take throw wash "
    "wipe sweep mop fry boil grill bake prepare refill restock assign reassign acknowledge ack snooze dismiss mute unmute "
    "silence approve reject announce greet notify warn remind connect disconnect reconnect calibrate transfer transport swap "
    "replace patrol retire unretire unplug wait"
)
"""Verbs that mean doing, wherever they stand outside of a question."""

_NOUNS_TOO = _words(
    "charge call set change update add lift lower run park print play alert cook serve hold stand lock mark dock press plug "
    "cut sleep wake watch book reserve seat pick get give make keep back speed hurry power check slow"
)
"""Verbs that are as often nouns: they count where an order would have them."""

_ADJECTIVES_TOO = _words("open close clean clear free empty")

_VERBS = _ACTIONS | _NOUNS_TOO | _ADJECTIVES_TOO | {"order", "place"}

_WH = _words(
    "what which who whom whose where when why how what's where's when's who's how's why's whats wheres hows whos since"
)
_YOU_DO = re.compile(rf"\byou (?:\w+ ){{0,2}}?(?:{'|'.join(_ACTIONS)})\b")
_STOPS = _words("stop halt freeze abort cancel kill")
_COPULAS = _words("is are was were am isn't aren't wasn't weren't")
_AUXILIARIES = _COPULAS | _words("do don't dont does did doesn't didn't has had hasn't hadn't have haven't")
_MODALS = _words("can could would will shall should may might must won't can't couldn't wouldn't shouldn't")
_ANY = _words("any anything anyone anybody")
_GOVERNS = (_AUXILIARIES - _COPULAS) | _MODALS | _words("to make makes made let lets help helps cannot don't won't")
"""A bare verb behind one of these belongs to its question."""

_BEFORE_NOUNS = _words(
    "the a an this that these those last next each every emergency e bus full no any of per its their for first on in at by "
    "from with"
)
_AFTER_NOUNS = _words("button buttons sign event events request requests light time level state status percent")
_FILLERS = _words(
    "please pls plz hey hi hello ok okay now just quick quickly immediately urgent urgently yo oh well right everyone "
    "everybody all every each both the robot robots assistant also first next yes no again emergency kindly sir dear guys it "
    "they them i'm sorry excuse me somebody someone"
)
_LEADS = _words(
    "please to you must should shall will can could would now just not don't let's never always robot robots all them"
)
"""An order's verb may follow these."""

_ORDERED = _words("more some a an another me us new it that this again the my our")
_OBJECTS = _words("it him her them everything everybody everyone all")
_NO_PIECES = _VERBS | _WH | _AUXILIARIES
_INFORM = _words(
    "show tell list say describe explain find check count display report summarize summarise name look see read know ask hear "
    "wonder"
)
_ABOUT = _words(
    "state status position location place info information battery link name now right doing about report of the a s please"
)
_LISTENERS = _words("me us about for up at out you whether if that please the again to")

_POLITE = re.compile(
    r"^(?:(?:can|could|would|will|won't|may|might) (?:you|i|we|somebody|someone)(?: all)?|do you|would you mind|do you mind|"
    r"mind|are you able to|is it (?:ok|okay|possible|safe|allowed|fine|time) to|be so kind as to|"
    r"i (?:want|need|would like|wanna|gotta)(?: you)?(?: to)?|i'd like(?: you)?(?: to)?|"
    r"we (?:want|need)(?: you)?(?: to)?|let me|let us|let's|lets|let)\b ?(?:please |kindly |just |also )*"
)
_MADE_TO = re.compile(r"\b(?:must|should|needs?|has|have|want|get|please|can|could|like|let) (?:\w+ ){0,4}?(?:be )?(?:\w+ )?")
_DONE = _words(
    "stopped halted frozen aborted sent brought delivered moved returned resumed cancelled canceled paused removed shut"
)
_DOING = _words(
    "stopping halting freezing going coming sending bringing delivering moving returning cancelling pausing turning"
)
_ASKS_HOW = re.compile(r"^how (?:to|(?:do|can|could|should|would|will|must) (?:i|we|you|one))\b")
_GLUED = re.compile(
    r"^(?:(?:please|just|now|all|robots?|alba|cook|pinky|do)(?P<tail>[a-z]+)|(?P<head>[a-z]+?)"
    r"(?:all|the|it|robots?|every\w*|now|please|him|them|this|that|moving|alba|cook|pinky))$"
)
_GO_TO = re.compile(r"^(?:[a-z]+ \d+|robots?|all robots) (?:back )?(?:to|here|off|away|down)\b|.\b(?:off|back|here)$")


def _is_english_order(text: str) -> bool:
    parts = _PARTS.split(text)
    asked = False
    for part in parts:
        words = _spelled(_WORD.findall(part))
        # "which tables call and wait": one question; "which robots are late and stop them": a question and an order.
        if asked and len(words) == 1 and words[0] in _VERBS:
            continue
        if words and _orders(words):
            return True
        asked = bool(words) and words[0] in _WH and not _AUXILIARIES.intersection(words)
    return False


def _spelled(words: list[str]) -> list[str]:
    """Return words with the spaces where they belong: `st op`, `s t o p` and `stopall` mean `stop`."""
    found: list[str] = []
    index = 0
    while index < len(words):
        for length in (4, 3, 2):
            joined = "".join(words[index : index + length])
            pieces = words[index : index + length]
            if len(pieces) == length and joined in _ACTIONS and not _NO_PIECES.intersection(pieces):
                found.append(joined)
                index += length
                break
        else:
            word = words[index]
            match = None if word in _VERBS else _GLUED.match(word)
            verb = (match["tail"] or match["head"]) if match else ""
            found.append(verb if len(verb) > 3 and verb in _ACTIONS else word)
            index += 1
    return found


def _orders(words: list[str]) -> bool:
    """Return whether one clause is an order."""
    words = _without_address(words)
    if not words:
        return False
    text = " ".join(words)
    if text in ("off", "away", "back", "here", "out"):
        return True
    if polite := _POLITE.match(text):
        wants = polite[0].strip()
        rest = _without_address(text[polite.end() :].split())
        if rest and (rest[0] in _INFORM or (rest[0] in ("get", "give", "have") and rest[1:2] in (["me"], ["us"], ["the"]))):
            return _orders(rest)
        if not rest or rest[0] in _WH:
            return bool(rest) and _orders(rest)
        doing = any(word in _VERBS or word in _DOING or word in _DONE for word in rest)
        return doing if wants != "do you" else _orders(rest)
    head = words[0]
    if head in _WH:
        return _asks_for_action(words, text, head)
    if head in ("don't", "dont", "never", "do") and words[1:2] != [] and (words[1] in _VERBS or words[1] in ("not", "let")):
        return True
    if head in ("don't", "dont", "never", "have", "let") and words[1:2] not in (["the"], ["they"], ["we"], ["any"]):
        return any(word in _VERBS for word in words[1:])
    if head in _AUXILIARIES:
        return _asks_for_action(words, text, head)
    if head in _MODALS:
        return any(word in _VERBS or word in _DONE for word in words)
    if head in _ANY:
        return ("please" in words or " way to " in text) and any(word in _VERBS for word in words)
    if head in _INFORM or (head in ("give", "get") and words[1:2] in (["me"], ["us"])):
        rest = words[1:]
        while rest and rest[0] in _LISTENERS:
            if rest[0] == "to" and rest[1:2] and rest[1] in _VERBS:
                return True
            rest = rest[1:]
        return _orders(rest) if rest else False
    if head == "get" and re.match(
        r"get (?:the |a |current )*(?:status|state|battery|list|location|position|info|number|level)", text
    ):
        return False
    return _tells(words, text)


def _without_address(words: list[str]) -> list[str]:
    """Return a clause from its first telling word on: without greetings, and who is addressed."""
    while words:
        if words[0] in _FILLERS and not (words[0] == "all" and len(words) == 1):
            words = words[1:]
        elif len(words) > 1 and words[1].isdigit() and words[0] not in _VERBS:
            if len(words) > 2 and words[2] in ("to", "here", "off", "away", "down", "back", "must", "should", "needs", "has"):
                return words
            words = words[2:]
        elif words[0].isdigit():
            words = words[1:]
        else:
            return words
    return words


def _asks_for_action(words: list[str], text: str, head: str) -> bool:
    """Return whether a clause that begins as a question ends as an order: `where is alba-1 stop it`."""
    if _ASKS_HOW.match(text) and any(word in _VERBS for word in words):
        return True
    if re.match(r"why (?:don't|dont|not|can't|won't)(?: (?:you|we|they|it))? ?(?:just )?\w+", text):
        follows = re.sub(r"^why \S+(?: (?:you|we))? ?(?:just )?", "", text).split()
        if follows and follows[0] in _VERBS:
            return True
    if re.match(r"(?:how|what) about\b", text) and any(word in _VERBS or word in _DOING for word in words):
        return True
    if _YOU_DO.search(text) and "did" not in words:
        return True
    if "please" in words and any(word in _VERBS for word in words[1:]):
        return True
    if any(word in _STOPS and after in _OBJECTS for word, after in pairwise(words)):
        return True
    has_helper = any(word in _AUXILIARIES or word in _MODALS for word in words)
    is_subject = head in _WH and head not in ("when", "since") and not has_helper
    for index, word in enumerate(words[1:], start=1):
        before, after = words[index - 1], words[index + 1] if index + 1 < len(words) else ""
        if before in _GOVERNS:
            return False  # what follows belongs to the question
        if word in _ACTIONS and not is_subject and before not in _BEFORE_NOUNS and after not in _AFTER_NOUNS:
            return True
        if word in _VERBS and word not in _ACTIONS and after in _OBJECTS:
            return True
    return False


def _tells(words: list[str], text: str) -> bool:
    """Return whether a clause that is no question is an order."""
    if _GO_TO.search(text):
        return True
    if any(word in _DONE for word in words) and _MADE_TO.search(text):
        return True
    for index, word in enumerate(words):
        before, after = words[index - 1] if index else "", words[index + 1] if index + 1 < len(words) else ""
        if word in _ACTIONS and after not in _AFTER_NOUNS:
            return True
        leads = not before or before in _LEADS or before.isdigit()
        if word in ("order", "place"):
            if leads and after in _ORDERED:
                return True
        elif word in _ADJECTIVES_TOO:
            is_list = word in ("open", "free", "empty", "clean") and after.endswith("s") and not after.isdigit()
            is_place = word == "close" and after == "to"
            if leads and not before.isdigit() and (after or not before or before in _LEADS) and not is_list and not is_place:
                return True
        elif word in _NOUNS_TOO and leads and after not in _AFTER_NOUNS:
            return True
    return False


# -- Korean ------------------------------------------------------------------------------------------------------------------
# All of it on text without spaces, because that is what people get wrong; `$` is the end of a clause.

_KO_WH = "어디|언제|누가|누구|뭐|뭘|뭔|무엇|무슨|어느|어떤|어떻|어때|왜|몇|얼마"
_KO_ABOUT = r"위치|장소|정보|현황|상황|상태|배터리|보고|지금|현재|요즘|혹시|좀|은|는|이|가|요|의|도|야"
_SSANG_SIOT = 20
"""Number of ㅆ among the final sounds: the mark of the past."""

_INFO_VERB = (
    "알려|보여|말해|말씀해|말씀하|가르쳐|설명해|설명하|찾아|확인해|확인하|조회해|조회하|요약해|대답해|대답하|답해|검색해|읽어|세어|"
    "나열해|추천해|비교해|체크해|들려|살펴|얘기해|이야기해|일러|봐|알고|보고|묻고|물어보고|알|볼"
)
_INFO = re.compile(
    rf"(?:{_INFO_VERB})(?:봐|보)?(?:좀)?(?:주실수|줄수|주시겠|주실래|주시|주세|주십|줄래|주라|줘|주렴|다오|달라|주|세|십|시|라|싶|수|요)+"
    r"(?:요|오|있[가-힣]*|겠[가-힣]*|어|어요|습니다|시오|죠)?|"
    r"(?:확인|설명|답변|대답|조회|요약)(?:을|를|좀)*(?:부탁|바랍|바람)[가-힣]*|"
    r"(?:정보|목록|리스트|상태|현황|요약|답|대답|설명|위치|이름|번호|데이터|명단|보고서)(?:를|을|도|만|좀)*(?:줘|주세요|주십시오|줄래|줄수)[가-힣]*"
)
_SAID_TO = re.compile(
    r"(?:(?:[하추우내키끄가오두주려]|[아어여와춰])라|자|달라)고(?:좀)?(?:말|전|얘기|이야기|해|하|시키|명령|지시|알)"
)
_HOW_TO_STOP = re.compile(
    r"(?:멈추|세우|정지하|정지시키|중지하|끄)는(?:방법|법|버튼)|(?:정지|빨간)버튼|어떻게(?:하면)?(?:꺼|끄)"
)

# What comes behind a verb's stem (멈춰-, 보내-) in an order.
_ORDERS = (
    r"(?=$|줘(?!서|야(?:할|하는|되는|될|하나))|주라|주세|주십|주시|주실|주셈|주삼|줄래|줄수|주면|주렴|주겠|줬으면|"
    r"라(?!면|서|도|지)|세[요여용염]|십시|시오|시죠|셔|[요용여욧유]$|셈|삼|달라|다오|봐|버려|자$|자고|도록|게해|게하|게나|"
    r"면(?:좋|돼|되|안)|지마|지말|야(?:해|돼|되|합|한다|겠|지)|렴|거라|너라|빨리|당장|지금|제발|즉시|좀|모두|전부|모든|다$|"
    r"alba|robot|pl)"
)
_BARE = r"(?=$|[요용여욧유]$)"

_STOP = re.compile(
    r"멈춰(?!있|서있|진|졌|버렸|둔|뒀|놓은|선|있는)|멈추(?:어(?!있|진|졌)|라|세|십|시오|시죠|자|게|도록|면(?:좋|돼|되|안)|지마|지말|셔|길|고싶)|"
    r"멈추기(?=$|바|를)|멈출(?:수있|래|까)|멈춤(?=$|해|시)|세워(?!진|져|둔|뒀|놓은|놨|있)|세우(?:라|세|십|시오|자|게|도록|지마|지말|고싶)|"
    r"세울(?:수있|래|까)|그만(?=$|해|하|둬|두(?:라|세|십|자)|좀|가$|가라|와$|움직)|가만(?:히)?(?:있(?:어|으|거)|서)|^잠(?:깐|시)만?$|"
    r"지(?:좀|는)?(?:마(?=$|라|세|요|십|시오|셔)|말(?=$|고|아|라|자|것|도록))"
)

_STOP_NOUNS = "정지|중지|중단|스톱|스탑|스돕|정차|프리즈|홀드"
_STRONG_NOUNS = (
    "이동|출발|복귀|귀환|취소|캔슬|후진|전진|회전|우회전|좌회전|감속|가속|재개|재시작|스타트|전송|배달|배송|해제|삭제|유턴|도킹|"
    "리셋|재부팅|차단|파견|출동|철수|대피|운반|전달|잠금|리턴|컴백|오프|제거|추가|활성화|비활성화|복구|초기화"
)
_NOUNS_OF_STATES = (
    "호출|충전|청소|서빙|조리|요리|대기|안내|순찰|준비|주문|예약|등록|변경|수정|설정|교체|보충|발주|결제|정리|세팅|점검|연결|포장|"
    "픽업|알림|운행|가동|작동|시작|종료|방송|인사|주차"
)
"""Nouns that alone say what is, as often as what to do."""

_ACTION_NOUNS = f"{_STRONG_NOUNS}|{_NOUNS_OF_STATES}"

_MADE = (
    r"(?:을|를|좀|만|도|바로|즉시|당장|빨리|으로|로)*(?:해(?:줘|주|라|달|봐|버려|놔|둬|도(?:돼|되)|야(?:해|돼|되|합|한다|겠|지))|"
    r"하(?:라|세|십|시오|시죠|시길|자|게(?!된|되)|도록|셔|렴|거라|기(?=$|바)|길|면(?:좋|돼|되|안)|지마|지말|고(?:와|가|싶|$))|"
    r"할(?:수있(?!는)|래|까|게요?$|께요?$|것$)|합시다|시켜|시키(?:라|세|십|자|게|도록|면|지)|시킬(?:수있|래|까)|부탁|바람|바랍|요망|"
    r"(?:요청|명령|지시)(?=$|해|합|드|내|하)|please)"
)
_MAY_BE_MADE = "(?:이|은|도)?가능(?:해|할|하|한가)"
_MADE_NOW = (
    r"(?:을|를|좀|만|도|바로|즉시|당장|빨리)*해(?=$|[요용여욧유]$|빨리|당장|지금|제발|즉시|좀|alba|robot|모두|전부|모든)"
)

_NOUN_MADE = re.compile(
    rf"(?:{_STOP_NOUNS}|{_STRONG_NOUNS}){_MAY_BE_MADE}|(?:{_STOP_NOUNS}|{_ACTION_NOUNS}){_MADE}|(?:{_STOP_NOUNS}){_MADE_NOW}"
)
_NOUN_MADE_NOW = re.compile(rf"(?:{_ACTION_NOUNS}){_MADE_NOW}")
_STOP_NOUN = re.compile(rf"(?:{_STOP_NOUNS})(?=$|요$|!|빨리|당장|지금|제발|즉시|alba|robot|모두|전부|모든)")
_STRONG_NOUN = re.compile(rf"(?:{_STRONG_NOUNS})요?$")
_OF_ROBOT = re.compile(
    r"(?:^|재|\d|번|호|봇|테이블|모두|전부|다)(?:에|을|를|이|가|은|는|도|좀|빨리|지금|바로)*(?:충전|청소|정리|서빙|조리|요리|대기|안내|순찰|출발|시작|종료|빨리)$|"
    r"(?:충전|청소|조리|서빙|운행|작업)(?:을|를)?(?:시작|종료)$"
)

_VERBS_DONE = (
    "보내|가져와|가져가|가져다|갖다|갖고와|갖고가|가지고와|가지고가|돌아와|돌아가|움직여|열어|닫아|내려|올려|비켜|따라와|따라가|불러|치워|닦아|"
    "밀어|당겨|돌려|틀어|눌러|바꿔|지워|넣어|전해|데려와|데려가|데리고와|데리고가|옮겨|들어가|들어와|올라가|올라와|내려가|내려와|다녀와|다가와|"
    "다가가|물러나|물러서|비켜서|쉬어|끝내|끊어|만들어|구워|끓여|볶아|튀겨|썰어|부어|잡아|놓아|내려놔|풀어|잠가|막아|서둘러|뛰어|달려|앉혀|"
    "기다려|일어나|맡겨|챙겨|날라|채워|비워|깨워|시켜|늦춰|낮춰|높여|줄여|늘려|건너가|지나가|관둬|냅둬|놔둬|내버려둬|꺼내|담아|섞어|뒤집어|"
    "도와|살려|춤춰|없애|불러와|구해|실어|실행해|따라|붙여|떼|던져|굴러|굴려|켜|놔|빼|(?<![내니네거것])(?<!(?<!이)제)꺼|(?<![누하])나가|(?<!하)나와"
)
_VERB_TOLD = re.compile(rf"(?:{_VERBS_DONE}){_ORDERS}")
_VERB_BARE = re.compile(rf"(?:{_VERBS_DONE}){_BARE}")
_VERB_STEM = re.compile(
    r"(?:보내|움직이|나르|가져오|가져가|돌아오|돌아가|데려오|옮기|치우|닦|끄|켜|열|닫|누르|내리|올리|오|가|비키|기다리|만들|따라오|부르|놓|빼|잡|넣)"
    r"(?:라(?:고|$)|으?세요|으?십시|으?시오|으?셔|자$|도록|으?면(?:좋|돼|되|안)|고싶|거라|너라|렴$)|"
    r"(?:보낼|움직일|가져올|가져갈|돌아올|돌아갈|데려올|데려갈|옮길|치울|닦을|끌|켤|닫을|누를|내릴|올릴|비킬|갈|올|열)(?:수있(?!는)|래|까$|까요)"
)

_WHITHER = (
    "로|에|까지|에게|한테|쪽|빨리|좀|어서|얼른|당장|지금|바로|제발|다시|먼저|같이|혼자|천천히|"
    "이리|저리|여기|거기|일루|앞|뒤|옆|집|그만"
)
_GO = re.compile(rf"(?:^|{_WHITHER})(?:가|와){_ORDERS}|(?:가|와)(?:줘(?!서|야)|주세요|주십시|줄래|줄수|라$|자$)")
_GO_ALONE = re.compile(
    r"(?<!비)(?<!눈)\s(?:가|와|서)\s*(?:라|요|줘|봐)?\s*$|^\s*(?:가|와|서)\s*(?:라|요)?\s*$|\d(?:가|와)\s*$|[거저여]기\s*서\s*$"
)
_PLACE = re.compile(
    r"(?:테이블|주방|충전소|충전기|홀|입구|창고|쪽|여기|거기|저기|자리|스테이션|번|\d|부엌|카운터|밖|안|앞|뒤|옆)(?:으로|로|에게|한테)$"
)

_GIVE = re.compile(
    r"줘(?!서|야(?:할|하는|되는|될|하나|하니))|주라$|주세요|주십시|주시(?:겠|길|면|죠|오|ㅂ)|주실(?:래|수)|줄래|줄수(?:있|없|는)|[아어여해내와워려가]달라|주렴|"
    r"줬으면|주면(?:좋|안|고맙|감사)|주기바|주길|부탁(?=$|해|드|합|요|할)"
)
_HONORIFIC = re.compile(
    r"(?<!안녕하)(?<!계)(?<!있으)(?<!없으)(?<!어떠)(?<!아)(?<!되)(?<!이)(?<!좋으)(?:세[요여용염]|셔요|셈$|삼$)"
)
_FORMAL = re.compile(r"(?:십시오|십시요|십쇼)|[가-힣]시오$")
_PLAIN = re.compile(
    r"(?:아라|어라|여라|해라|거라|켜라|워라|춰라|와라|내라|려라|놔라|둬라|져라|[하추우내키끄]라)(?=$|고(?!하는|한|불))"
)
_LETS = re.compile(r"(?:멈추|세우|하|가|오|보내|끄|켜|열|닫)자$|합시다|[갑옵]시다")
_SO_THAT = re.compile(r"(?:도록|(?<!어떻)(?<!이렇)(?<!그렇)(?<!저렇)게)(?:해|하|조치)(?!는지)")
_THEN = re.compile(
    rf"(?:보내|가져오|가져가|돌아오|돌아가|움직이|멈추|세우|옮기|치우|닦|끄|켜|닫|내리|올리|비키|(?:{_STOP_NOUNS}|{_STRONG_NOUNS})(?:시키|하))고"
    r"(?!있|계|싶|하는|한)|(?:에|로|까지|다녀|돌아|들어)(?:가|와)서"
)
_WISH = re.compile(r"(?<!알았)(?<!봤)으면(?:좋|합니다|해요?$|하는데|하는바)")
_WORD_TOLD = re.compile(rf"(?:{_VERBS_DONE})\s+(?!있|계|본|둔|놓|버린|버렸|뒀|놨|두|서\s*있|진|져|졌|오는|온|가는|간)")
_DO = re.compile(r"([가-힣]+)\s*해\s*$")
_IS_SO = re.compile(
    "필요|부족|이상|가능|불가능|급|궁금|조용|심각|위험|비슷|동일|정확|안전|편안|복잡|한가|피곤|행복|좋아|싫어|뭐|왜|어떻게|얼마나|약|깨끗|더|못|안|"
    "잘|말|생각|사랑|미안|감사|축하|불안|답답|따뜻|시원|충분|넉넉|불편|당연|똑같|올|그|이|저|대"
)
_KO_PARTS = re.compile(r"[^\w\s-]+|[\u1100-\u11ff]+|\n+")
_ASKED_ALREADY = re.compile(
    rf"(?:{_KO_WH})(?:에|서|로|쯤|까지|가|를|을|은|는|게)*(?:있어요?|있나요?|있니|있냐|있지|야|예요|이야|에요|이에요|하고있어요?|인가요?|됐어|되나|해$)"
)


def _is_korean_order(text: str) -> bool:
    if not re.search("[가-힣]", text):
        return False
    return any(_is_korean_clause_order(part, text) for part in _KO_PARTS.split(text) if part)


def _is_korean_clause_order(part: str, text: str) -> bool:
    spaced = part.strip()
    clause = re.sub(r"\s+", "", spaced)
    if _SAID_TO.search(clause) or _HOW_TO_STOP.search(clause):
        return True
    clause = _INFO.sub("|", clause)
    if _STOP.search(clause) or _NOUN_MADE.search(clause) or _GIVE.search(clause) or _FORMAL.search(clause):
        return True
    if _WISH.search(clause) or ("|" in clause and _THEN.search(clause)):
        return True
    if _PLAIN.search(clause) or _LETS.search(clause) or _SO_THAT.search(clause) or _is_told(clause):
        return True
    rest = _ASKED_ALREADY.sub("|", clause)
    asks_who = re.search(_KO_WH, rest) is not None
    is_asked = f"{part}?" in text
    if _STOP_NOUN.search(rest) and not asks_who:
        return True
    if asks_who:
        return False
    if _HONORIFIC.search(rest) or _VERB_TOLD.search(rest) or _VERB_BARE.search(rest) or _GO.search(rest) or _PLACE.search(rest):
        return True
    if _GO_ALONE.search(" " + _INFO.sub("|", spaced)) and not (is_asked and re.search(r"\d(?:가|와)\s*$", spaced)):
        return True
    if _NOUN_MADE_NOW.search(rest):
        return not (is_asked and re.search(rf"(?:{_NOUNS_OF_STATES})(?:을|를)*해요?$", rest))
    if _STRONG_NOUN.search(rest) or _WORD_TOLD.search(spaced):
        return True
    if _OF_ROBOT.search(rest) and not is_asked:
        return True
    made = _DO.search(spaced)
    return made is not None and not is_asked and re.search(f"{_KO_WH}|^(?:{_IS_SO.pattern})$", made[1]) is None


def _is_told(clause: str) -> bool:
    match = _VERB_STEM.search(clause)
    if match is None:
        return False
    return not (re.search(_KO_WH, clause) and re.search(r"세요|셔|수있|래|까", match[0]))
