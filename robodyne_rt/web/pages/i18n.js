/** The page's words in Korean and English, and how ages and numbers are said. */

const WORDS = {
  serverTime: ["서버 시각", "Server time"],
  language: ["English", "한국어"],
  overview: ["요약", "Overview"],
  floor: ["매장 지도", "Floor plan"],
  grid: ["격자 1 m", "1 m grid"],
  orders: ["진행 중인 주문", "Open orders"],
  robots: ["로봇", "Robots"],
  events: ["이벤트", "Events"],
  stock: ["재고 부족", "Low stock"],
  logs: ["시스템 로그", "System logs"],
  tables: ["테이블", "Tables"],
  table: ["테이블", "Table"],
  robot: ["로봇", "Robot"],
  calling: ["호출 중인 테이블", "Tables calling"],
  unacknowledged: ["미확인 이벤트", "Unacknowledged events"],
  ofTables: ["전체 {n}", "of {n}"],
  onlineOf: ["{n}대 연결", "{n} online"],
  oldest: ["가장 오래된 주문 {age}", "oldest {age}"],
  more: ["{n}개 더", "+{n} more"],
  none: ["없음", "none"],
  allGood: ["모두 충분", "all well stocked"],
  connected: ["연결됨", "Connected"],
  connectedPolling: ["연결됨 (2초마다 조회)", "Connected (polling every 2 s)"],
  connecting: ["연결 중…", "Connecting…"],
  reconnecting: ["다시 연결 중…", "Reconnecting…"],
  lost: ["연결 끊김", "Connection lost"],
  stopped: ["중지됨", "Stopped"],
  gave_up: ["서버가 응답하지 않습니다", "the server does not answer"],
  lostSince: [
    "서버와 연결이 끊겼습니다 ({time}부터). 화면은 마지막으로 받은 상태이며, 자동으로 다시 연결합니다.",
    "Connection to the server lost since {time}. This is the last known state; reconnecting by itself.",
  ],
  neverConnected: ["서버에 아직 연결하지 못했습니다. 계속 시도합니다.", "No connection to the server yet; trying on."],
  stoppedBecause: ["연결이 중지되었습니다: {reason}", "The connection was stopped: {reason}"],
  lastData: ["마지막 데이터 {age} 전", "last data {age} ago"],
  noData: ["아직 데이터 없음", "no data yet"],
  token_missing: ["로그인이 필요합니다", "login needed"],
  token_expired: ["로그인이 만료되었습니다", "login expired"],
  token_invalid: ["로그인이 필요합니다", "login needed"],
  forbidden: ["볼 권한이 없습니다", "not allowed"],
  abuse: ["요청이 너무 많아 차단되었습니다", "refused: too many messages"],
  unknown_topic: ["없는 주제입니다", "no such topic"],
  session_replaced: ["다른 곳에서 접속했습니다", "opened elsewhere"],
  topic_full: ["접속 수가 가득 찼습니다", "too many screens"],
  skewAhead: ["이 기기의 시계가 {age} 빠름", "this device's clock is {age} ahead"],
  skewBehind: ["이 기기의 시계가 {age} 느림", "this device's clock is {age} behind"],
  problems: ["서버 점검 필요", "The server needs a look"],
  sinceTime: ["{time}부터", "since {time}"],
  storageState: ["저장소: {state}", "Storage: {state}"],
  noRobots: [
    "아직 로봇이 없습니다. 시뮬레이터를 시작하세요: robodyne-rt sim",
    "No robots yet: start the simulator with robodyne-rt sim",
  ],
  noPlan: ["표시할 테이블이나 로봇이 아직 없습니다.", "No tables and no robots to show yet."],
  noOrders: ["진행 중인 주문이 없습니다", "No open orders"],
  noEvents: ["이벤트가 없습니다", "No events"],
  noStock: ["부족한 재고가 없습니다", "Nothing runs low"],
  noLogs: ["로그가 없습니다", "No logs"],
  selectHint: ["테이블이나 로봇을 선택하면 자세한 정보가 나옵니다.", "Select a table or a robot to see its details."],
  noPosition: ["위치 없음", "no position"],
  outside: ["지도 밖", "off the plan"],
  battery: ["배터리", "Battery"],
  lowBattery: ["부족", "low"],
  status: ["상태", "Status"],
  link: ["연결", "Link"],
  type: ["종류", "Type"],
  position: ["위치", "Position"],
  heading: ["방향", "Heading"],
  address: ["주소", "Address"],
  customers: ["손님", "Guests"],
  seats: ["좌석", "Seats"],
  lastSeen: ["마지막 소식", "Last seen"],
  ago: ["{age} 전", "{age} ago"],
  unchanged: ["{age}째 변화 없음", "unchanged for {age}"],
  neverSeen: ["소식 없음", "never seen"],
  acknowledged: ["확인됨: {who}", "acknowledged: {who}"],
  open: ["미확인", "open"],
  priority: ["우선", "priority"],
  onTime: ["정상", "on time"],
  slow: ["5분 넘음", "over 5 min"],
  late: ["8분 넘음 · 지연", "over 8 min · late"],
  unknownTable: ["테이블 미정", "no table"],
  logIn: ["로그인", "Log in"],
  logOut: ["로그아웃", "Log out"],
  user: ["사용자", "User"],
  password: ["비밀번호", "Password"],
  account: ["계정", "Account"],
  loginTakenBack: [
    "로그아웃되었습니다: 접속 권한이 바뀌었거나 취소되었습니다.",
    "You were logged out: the access was changed or taken back.",
  ],
  loginIsOver: ["로그인 시간이 끝났습니다. 다시 로그인하세요.", "The login is over; please log in again."],
  noRole: ["역할 없음", "no role"],
  withoutLogin: ["로그인 없이 보기", "Look on without logging in"],
  loginNeeded: ["로그인 필요", "Login needed"],
  nothingToSee: ["이 계정으로 볼 수 있는 화면이 없습니다.", "There is nothing that this account may see."],
  cancel: ["취소", "Cancel"],
  close: ["닫기", "Close"],
  pairThisScreen: ["이 화면 등록", "Pair this screen"],
  pairHow: [
    "관리자가 자신의 화면에서 '계정'을 열고 이 번호를 입력하면 이 화면이 켜집니다.",
    "This screen opens when an administrator enters this code under “Account” on theirs.",
  ],
  codeRest: ["{age} 동안 유효", "good for {age}"],
  approveScreen: ["화면 등록 승인", "Approve a screen"],
  approveHow: ["새 화면에 보이는 여섯 자리 번호를 입력하세요.", "Enter the six digits that the new screen shows."],
  code: ["번호", "Code"],
  screenName: ["화면 이름", "Name of the screen"],
  approve: ["승인", "Approve"],
  screenIsIn: ["{name} 화면이 등록되었습니다", "{name} is paired"],
  copilot: ["코파일럿", "Copilot"],
  yourQuestion: ["질문", "Your question"],
  questionExample: ["예: 늦은 주문 있어?", "e.g. Which orders are late?"],
  askIt: ["묻기", "Ask"],
  answerIt: ["답하기", "Answer"],
  otherWords: ["다른 답", "Other words"],
  noLongerAsked: ["더 이상 답할 필요가 없습니다", "no longer asked"],
  searching: ["찾는 중…", "Looking it up…"],
  askedWhenConnected: ["연결되면 묻겠습니다…", "Will be asked when connected…"],
  waitsForAnswer: [
    "앞선 질문에 답해 주시기를 기다립니다 (이 화면 또는 다른 화면).",
    "Waits for your answer to an earlier question (here or on another screen).",
  ],
  remaining: ["지금 더 물을 수 있는 횟수: {n}", "{n} more questions now"],
  messages: ["메시지", "Messages"],
  writeMessage: ["메시지 보내기", "Write a message"],
  recipient: ["받는 사람", "To"],
  userName: ["사용자 이름", "User name"],
  oneUser: ["한 사람…", "one user…"],
  everybodyIn: ["{role} 모두", "everybody: {role}"],
  message: ["내용", "Message"],
  isUrgent: ["긴급", "urgent"],
  send: ["보내기", "Send"],
  markRead: ["읽음", "Mark read"],
  readBy: ["{who} 읽음", "read by {who}"],
  nobodyOfThisName: ["이 이름의 사용자가 없습니다", "nobody of this name is known here"],
  unread: ["읽지 않은 메시지 {n}개", "Unread messages: {n}"],
  notRead: ["아직 읽지 않음", "not read yet"],
  listen: ["듣기", "Listen"],
  askAgain: ["질문이 너무 많았습니다. 이제 다시 물을 수 있습니다.", "Too many questions at once; you may ask again now."],
  waitSeconds: ["요청이 너무 많습니다. {n}초 뒤에 다시 하세요.", "Too many requests; try again in {n} s."],
  INVALID_CREDENTIALS: ["이름이나 비밀번호가 틀렸습니다.", "Wrong name or password."],
  AUTHENTICATION_REQUIRED: ["로그인이 필요합니다.", "Login needed."],
  PERMISSION_DENIED: ["권한이 없습니다.", "Not allowed."],
  "login.PERMISSION_DENIED": [
    "이 서버의 사용자는 다른 곳(OIDC)에서 로그인합니다.",
    "Users of this server log in elsewhere (OIDC).",
  ],
  "approve.RESOURCE_NOT_FOUND": [
    "이 번호를 보여 주는 화면이 없습니다. 번호는 10분 동안 유효합니다.",
    "No screen shows this code; codes are good for ten minutes.",
  ],
  NO_ANSWER: ["서버가 응답하지 않습니다.", "The server does not answer."],
  STORAGE_UNAVAILABLE: ["지금은 저장할 수 없습니다. 다시 해 보세요.", "It cannot be stored now; try again."],
  "ask.FORBIDDEN": ["질문할 권한이 없습니다.", "You may not ask questions."],
  "ask.TIMEOUT": ["제시간에 답을 찾지 못했습니다.", "No answer was found in time."],
  "ask.TOO_LARGE": ["질문이 너무 깁니다.", "The question is too long."],
  "ask.CLOSED": ["연결이 끝났습니다.", "The connection has ended."],
  s: ["{n}초", "{n} s"],
  m: ["{n}분", "{n} min"],
  h: ["{n}시간", "{n} h"],
  d: ["{n}일", "{n} d"],
};

const CODES = {
  robot: {
    IDLE: ["대기", "idle"],
    SETTING: ["세팅 중", "setting"],
    COOKING: ["조리 중", "cooking"],
    PICKUP: ["픽업 중", "pickup"],
    SERVING: ["서빙 중", "serving"],
    CLEANING: ["청소 중", "cleaning"],
    CHARGING: ["충전 중", "charging"],
    EMERGENCY: ["비상", "emergency"],
    MAINTENANCE: ["정비 중", "maintenance"],
    SECURITY: ["보안 순찰", "security"],
    BIRTHDAY: ["생일 축하", "birthday"],
    ERROR: ["오류", "error"],
  },
  link: {
    ONLINE: ["연결됨", "online"],
    OFFLINE: ["종료됨", "offline"],
    CONNECTIONBROKEN: ["연결 끊김", "link broken"],
  },
  table: {
    AVAILABLE: ["빈자리", "free"],
    OCCUPIED: ["식사 중", "occupied"],
    RESERVED: ["예약", "reserved"],
    CALLING: ["호출", "calling"],
    CLEANING: ["정리 중", "cleaning"],
  },
  order: {
    PLACED: ["접수", "placed"],
    PREPARING: ["조리 중", "preparing"],
    READY: ["완성", "ready"],
    SERVING: ["서빙 중", "serving"],
    SERVED: ["완료", "served"],
    CANCELLED: ["취소", "cancelled"],
  },
  stock: {
    IN_STOCK: ["충분", "in stock"],
    LOW_STOCK: ["부족", "low"],
    OUT_OF_STOCK: ["품절", "out of stock"],
  },
  severity: {
    DEBUG: ["디버그", "debug"],
    INFO: ["정보", "info"],
    WARNING: ["경고", "warning"],
    ERROR: ["오류", "error"],
    CRITICAL: ["긴급", "critical"],
  },
  role: {
    admin: ["관리자", "administrator"],
    manager: ["매니저", "manager"],
    kitchen: ["주방", "kitchen"],
    staff: ["홀 직원", "staff"],
    display: ["화면", "display"],
    technician: ["기술자", "technician"],
  },
  event: {
    WELCOME: ["손님 입장", "welcome"],
    CALL: ["직원 호출", "call"],
    BIRTHDAY: ["생일", "birthday"],
    EMERGENCY: ["비상", "emergency"],
    CLEANING: ["정리 요청", "cleaning"],
    ERROR: ["오류", "error"],
    INFO: ["알림", "info"],
    CHAT: ["대화", "chat"],
    LINK: ["연결", "link"],
  },
};

const LANGUAGES = ["ko", "en"];
const KEY = "robodyne.language";

/** What the page says, in the language of the person in front of it. */
export class Language {
  /** @type {string} */
  code;
  /** @type {number} */
  index;
  /** @type {Intl.NumberFormat} */
  number;
  /** @type {Intl.DateTimeFormat} */
  clock;

  constructor() {
    /** @type {string | null} */
    let kept = null;
    try {
      kept = localStorage.getItem(KEY);
    } catch {
      // Storage may be forbidden; then the browser's language decides each time.
    }
    const wished = (navigator.language ?? "").toLowerCase().startsWith("ko") ? "ko" : "en";
    this.use(kept !== null && LANGUAGES.includes(kept) ? kept : wished);
  }

  use(code) {
    this.code = code;
    this.index = LANGUAGES.indexOf(code);
    this.number = new Intl.NumberFormat(code, { maximumFractionDigits: 1 });
    this.clock = new Intl.DateTimeFormat(code, { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
    document.documentElement.lang = code;
  }

  toggle() {
    this.use(this.code === "ko" ? "en" : "ko");
    try {
      localStorage.setItem(KEY, this.code);
    } catch {
      // Not remembered, but it works now.
    }
  }

  /** Return a sentence of the page; `{name}` is filled in. */
  say(key, values = {}) {
    const sentence = WORDS[key]?.[this.index] ?? key;
    return sentence.replace(/\{(\w+)\}/g, (_, name) => values[name]);
  }

  /** Return whether there is a sentence for a key. */
  knows(key) {
    return Object.hasOwn(WORDS, key);
  }

  /** Return the word for a code of the wire; an unknown code speaks for itself. */
  word(kind, code) {
    const words = CODES[kind];
    return Object.hasOwn(words, code) ? words[code][this.index] : String(code ?? "–");
  }

  /** Return a length of time in the words of the page. */
  age(ms) {
    const s = Math.max(0, Math.floor(ms / 1000));
    if (s < 90) return this.say("s", { n: s });
    if (s < 5400) return this.say("m", { n: Math.floor(s / 60) });
    if (s < 172800) return this.say("h", { n: Math.floor(s / 3600) });
    return this.say("d", { n: Math.floor(s / 86400) });
  }
}

/** Return a running time as `4:07`, or `1:02:07`. */
export function timer(ms) {
  const s = Math.max(0, Math.floor(ms / 1000));
  const two = (n) => String(n).padStart(2, "0");
  const minutes = Math.floor(s / 60) % 60;
  return s < 3600 ? `${minutes}:${two(s % 60)}` : `${Math.floor(s / 3600)}:${two(minutes)}:${two(s % 60)}`;
}
