/**
 * Topics, answers and messages of a restaurant in a browser, through lost links and restarts.
 *
 *     import { connect, follow } from "/static/robodyne-client.js";
 *
 *     const robots = follow("robots", { onChange: (entities) => draw(entities) }); // one topic
 *
 *     const session = connect({ onClarification: (question, options) => choose(question, options) }); // everything
 *     session.subscribe("orders", { onChange: (entities) => draw(entities) });
 *     const { response } = await session.request("늦은 주문 있어?");
 *
 * Types stand in robodyne-client.d.ts, the wire in docs/protocol-clients.md.
 */

/**
 * @import { CallOptions, Detail, Entity, EntityId, LinkOptions, MessageOptions, RequestOptions, Response, SessionOptions } from "./robodyne-client.d.ts"
 * @import { StaffMessage, State, Topic, TopicOptions } from "./robodyne-client.d.ts"
 */

/** What to do after a close, by its reason, and by its code where that is lost; made by scripts/contract; do not edit. */
const CLOSES = {
  "1009": "with_position",
  "1003": "never",
  "1008": "never",
  "4001": "after_login",
  "1001": "wait",
  "4004": "never",
  "4003": "with_position",
  "4005": "with_position",
  "1002": "with_position",
  "1007": "with_position",
  too_large: "with_position",
  unknown_topic: "never",
  abuse: "never",
  token_missing: "after_login",
  token_invalid: "after_login",
  token_expired: "after_refresh",
  forbidden: "never",
  shutting_down: "wait",
  topic_full: "wait",
  session_replaced: "never",
  heartbeat_lost: "with_position",
  too_slow: "with_position",
  protocol_error: "with_position",
  invalid_utf8: "with_position",
};
/** Coming back as it is would not help a client. */
const STOPS = ["never", "after_login", "after_refresh"];

const PING_MS = 1100; // one per second is allowed
const SILENCE_MS = 2700; // a dead link shows within 3 s
const OPEN_MS = 5000;
const TOKEN_MS = 60000; // the application may ask a person for it
const STABLE_MS = 10000;
const POLL_MS = 2000;
const TRIES = 10;
const TRIES_BEFORE_POLLING = 3;
const MAX_DELAY_S = 30;
const FULL_MS = 5000; // until a full topic is asked for again
const REQUEST_S = 300;
const MESSAGE_BYTES = 65536; // a larger message would cost the connection
const LONGEST_TIMER_MS = 2 ** 31 - 1;

const isOver = (state) => state === "stopped" || state === "closed";
const isUp = (state) => state === "connected" || state === "polling";
const fits = (message) => new Blob([JSON.stringify(message)]).size <= MESSAGE_BYTES;
const pause = (ms) => new Promise((done) => setTimeout(done, ms));
const within = (ms, promise, late) => {
  let timer;
  const deadline = new Promise((_, fail) => (timer = setTimeout(() => fail(late), ms)));
  return Promise.race([promise, deadline]).finally(() => clearTimeout(timer));
};

/** An id that nobody else has; `crypto.randomUUID` is missing on pages without TLS. */
export const newId = () => [...crypto.getRandomValues(new Uint8Array(12))].map((byte) => byte.toString(16).padStart(2, "0")).join("");

/** What went wrong, by its `code`: one of the server, or `NO_ANSWER`, `TIMEOUT`, `TOO_LARGE`, `CLOSED`. */
export class RtError extends Error {
  name = "RtError";
  /** @type {string} */
  code;
  /** @type {number | undefined} */
  status;
  /** @type {string | undefined} */
  requestId;
  /** @type {number | undefined} seconds */
  retryAfter;
  /** @type {number | undefined} */
  remaining;
  /** @type {string | undefined} */
  reason;

  /**
   * @param {string} code
   * @param {string} [message]
   * @param {object} [details] the other fields
   */
  constructor(code, message = code, details = {}) {
    super(message);
    Object.assign(this, { code, ...details });
  }
}

/**
 * Send one HTTP request, JSON both ways; return its answer or throw an RtError.
 *
 * @param {string} method
 * @param {string} path
 * @param {unknown} [body]
 * @param {CallOptions} [options]
 */
export async function call(method, path, body, { url = globalThis.location?.origin, token, headers, signal } = {}) {
  const sent = { ...headers };
  if (token) sent.Authorization = `Bearer ${token}`;
  if (body !== undefined) sent["Content-Type"] = "application/json";
  let response;
  /** @type {any} */
  let answer = null;
  try {
    response = await fetch(new URL(path, url), { method, headers: sent, body: JSON.stringify(body), signal, cache: "no-store" });
    answer = await response.json();
  } catch (cause) {
    if (!response || response.ok) throw new RtError("NO_ANSWER", "the server does not answer", { cause });
  }
  if (response.ok) return answer;
  const retryAfter = answer?.retry_after ?? answer?.retry_after_s;
  throw new RtError(answer?.code ?? `HTTP_${response.status}`, answer?.detail, { status: response.status, retryAfter });
}

/** The server's clock; share one between links. */
export class ServerClock {
  /** @type {number | null} */
  #base = null; // server epoch ms when performance.now() is 0
  #toldAt = -Infinity;
  #askedAt = -Infinity;

  /** Server time in epoch ms; at first this device's own. */
  now() {
    return this.#base === null ? Date.now() : performance.now() + this.#base;
  }

  /** How far this device is ahead of the server, in ms; null while unknown. */
  get deviceAhead() {
    return this.#base === null ? null : Date.now() - this.now();
  }

  /**
   * Take a ping's `timestamp` (epoch seconds), `latency` ms old.
   *
   * @param {number} timestamp
   */
  told(timestamp, latency = 0) {
    if (!Number.isFinite(timestamp)) return;
    this.#toldAt = performance.now();
    this.#base = timestamp * 1000 + latency - this.#toldAt;
  }

  /**
   * Take the `Date` of an HTTP answer, unless the time is known well.
   *
   * @param {string | URL} url
   */
  async guess(url) {
    const asked = performance.now();
    if (asked - Math.max(this.#toldAt, this.#askedAt) < 60000) return;
    this.#askedAt = asked;
    const response = await fetch(url, { cache: "no-store" }).catch(() => null);
    const date = Date.parse(response?.headers.get("Date") ?? "");
    if (date && this.#toldAt < asked) this.#base = date + 500 /* whole seconds, cut */ - (asked + performance.now()) / 2;
  }
}

/** A query string's way to say where `topic` stands. */
const position = ({ offset, epoch }) => (epoch === null ? {} : { since: offset, epoch });

/** Lay an update over a topic's state; return what it was made of, null where something was missed before. */
function apply(topic, { data, removed = [], prev, offset, epoch, snapshot = false, recovered = false, volatile = false }) {
  if (!volatile && !snapshot && !(prev <= topic.offset)) return null;
  const list = Array.isArray(data) ? data : [{ ...data, id: "status" }];
  if (snapshot) topic.entities.clear();
  for (const id of removed) topic.entities.delete(id);
  for (const entity of list) topic.entities.set(entity.id, entity);
  topic.offset = offset ?? topic.offset;
  topic.epoch = epoch ?? topic.epoch;
  return { snapshot, recovered, volatile, changed: list.map((entity) => entity.id), removed };
}

/**
 * A WebSocket that comes back, and polling where it does not get through. What is said on it is left to the classes below;
 * a topic that is polled has `_update(message)` and `_refused(reason)`.
 */
class Link {
  /** @type {State} */
  state = "connecting";
  /** @type {Detail} why it is not connected */
  detail = {};
  /** @type {number | null} performance.now() of the server's last word */
  heardAt = null;
  roundTrip = 0; // of the newest ping, ms

  /** @type {object | null} */
  #attempt = null; // the living one; what an older one brings is not heard
  /** @type {WebSocket | null} */
  #socket = null;
  #failures = 0; // for the backoff
  #inVain = 0; // failures in a row, without polling that works
  #unopened = 0; // attempts in a row that never opened
  #pings = 0;
  #pingedAt = 0;
  #timers = {};
  /** @type {AbortController | null} */
  #poll = null; // AbortController while polling
  /** @type {Promise<string> | null} */
  #token = null; // promise of what the application's `token()` gave

  /** @param {SessionOptions & TopicOptions} options those of every class below */
  constructor(options) {
    this.clock = options.clock ?? new ServerClock();
    this._options = { url: globalThis.location?.origin, random: Math.random, tries: TRIES, ...options };
    globalThis.document?.addEventListener("visibilitychange", this.#seen);
    globalThis.addEventListener?.("online", this.retry);
  }

  // -- what the classes below say and hear --

  /** @returns {[string, object]} path and query of where to connect */
  get _address() {
    return ["/ws", {}];
  }

  /** @returns {any[]} what is polled */
  get _topics() {
    return [];
  }

  _take(_message) {}

  _became(_state, _detail) {}

  // -- for everybody --

  /** End it for good. */
  close() {
    globalThis.document?.removeEventListener("visibilitychange", this.#seen);
    globalThis.removeEventListener?.("online", this.retry);
    this.#end("closed");
  }

  /** Try again now, unless there is a link; also after it gave up. */
  retry = () => {
    const ended = this.state === "closed" || (this.state === "stopped" && this.detail.reason !== "gave_up");
    if (this.#hidden || this.#attempt || ended) return;
    this.#failures = this.#inVain = 0;
    this.#connect();
  };

  /**
   * `call()` with this link's server and token.
   *
   * @param {string} method
   * @param {string} path
   * @param {unknown} [body]
   * @param {CallOptions} [options]
   */
  async call(method, path, body, options = {}) {
    const ask = async (renew) => call(method, path, body, { url: this._options.url, ...options, token: await this.#authorize(renew) });
    return ask(false).catch((error) => {
      if (error.code !== "TOKEN_EXPIRED" || !this.#canRenew) throw error;
      return ask(true);
    });
  }

  get #hidden() {
    return globalThis.document?.hidden ?? false;
  }

  get #open() {
    return this.#socket?.readyState === 1;
  }

  #become(state, detail = {}) {
    if (state === this.state && detail.reason === this.detail.reason) return;
    this.state = state;
    this.detail = detail;
    this._became(state, detail);
    this._options.onState?.(state, detail);
  }

  /** The server said something of use. */
  _up() {
    if (this.#open) this.#stopPolling();
    this.#become(this.#poll ? "polling" : "connected");
  }

  // -- who we are --

  get #canRenew() {
    return typeof this._options.token === "function";
  }

  /** The token to show, asked of the application where it gave a function. */
  async #authorize(renew = false) {
    const { token } = this._options;
    if (typeof token !== "function") return token;
    if (renew) this.#token = null;
    const asked = (this.#token ??= (async () => {
      const given = await within(TOKEN_MS, token(), new RtError("TIMEOUT", "token() gave none in time"));
      const { accessToken, expiresIn } = typeof given === "string" ? { accessToken: given } : (given ?? {});
      if (!accessToken) throw new RtError("AUTHENTICATION_REQUIRED", "token() gave none", { status: 401 });
      clearTimeout(this.#timers.token);
      const early = Math.max(1, expiresIn - Math.min(60, expiresIn / 4)) * 1000;
      if (early < LONGEST_TIMER_MS && !isOver(this.state)) this.#timers.token = setTimeout(() => this.#renew(), early);
      return accessToken;
    })());
    return asked.catch((error) => {
      if (asked === this.#token) this.#token = null;
      throw error;
    });
  }

  /** Give a living connection a newer token before its own is over; should that fail, it will close with 4001. */
  async #renew() {
    const token = await this.#authorize(true).catch(() => null);
    if (token) this._say({ type: "token", token, data: { token } });
  }

  async #signed(url) {
    const { ticket } = this._options;
    const value = typeof ticket === "function" ? await ticket() : ticket;
    if (value) url.searchParams.set("ticket", value);
    const token = value ? null : await this.#authorize();
    if (token) url.searchParams.set("token", token);
    return url;
  }

  // -- the socket --

  #at(path, query = {}) {
    const url = new URL(path, this._options.url);
    for (const [name, value] of Object.entries(query)) if (value !== undefined && value !== "") url.searchParams.set(name, value);
    return url;
  }

  async #connect() {
    this.#drop();
    const attempt = (this.#attempt = {});
    this.#unopened += 1;
    this.#timers.open = setTimeout(() => this._lost(1006, "no_answer"), OPEN_MS);
    let url;
    try {
      url = await this.#signed(this.#at(...this._address));
    } catch (error) {
      if (attempt === this.#attempt) this.#refuse(error);
      return;
    }
    if (attempt !== this.#attempt) return;
    url.protocol = url.protocol.replace("http", "ws");
    const socket = (this.#socket = new WebSocket(url));
    const on = (name, take) => socket.addEventListener(name, (event) => attempt === this.#attempt && take(event));
    on("open", () => {
      this.#unopened = 0;
      clearTimeout(this.#timers.open);
      this.#timers.stable = setTimeout(() => (this.#failures = this.#inVain = 0), STABLE_MS);
      this.#timers.ping = setInterval(() => this.#hidden || this.#ping(), PING_MS);
      this.#watch();
      this.clock.guess(this.#at("/livez"));
      if (this.#hidden) this._say({ type: "pause" });
      this.#ping();
    });
    on("message", (event) => {
      this.heardAt = performance.now();
      this.#watch();
      this.#take(JSON.parse(event.data));
    });
    on("close", (event) => this._lost(event.code, event.reason));
  }

  /** No waiting: a dead link may take minutes to close. */
  #drop() {
    for (const name of ["retry", "silence", "open", "stable", "ping"]) clearTimeout(this.#timers[name]);
    const socket = this.#socket;
    this.#socket = this.#attempt = null;
    socket?.close();
  }

  _lost(code, reason = "") {
    this.#drop();
    const { ticket, tries, random } = this._options;
    const renewed = typeof ticket === "function" || (reason === "token_expired" && this.#canRenew);
    if (code === 4001 && renewed) this.#token = null;
    else if (STOPS.includes(CLOSES[reason] ?? CLOSES[code])) {
      return this.#end("stopped", { code, reason: reason || String(code) });
    }
    const isPolling = this.state === "polling"; // with success, that is
    if (!this.#hidden) {
      if (isPolling) this.#inVain = 0;
      else if (this.#inVain++ >= tries) return this.#end("stopped", { code, reason: "gave_up" });
      const delay_s = Math.min(2 ** this.#failures++, MAX_DELAY_S) * (0.5 + random() / 2);
      this.#timers.retry = setTimeout(() => this.#connect(), delay_s * 1000);
      if (this.#unopened >= TRIES_BEFORE_POLLING && !this.#poll) this.#startPolling();
    }
    if (!isPolling) this.#become("reconnecting", { code, reason });
  }

  /** Take what an HTTP request or the application's `token()` threw. */
  #refuse(error) {
    const { status, code } = error ?? {};
    if (status !== 401) return this._lost(1006, "no_answer");
    if (code === "AUTHENTICATION_REQUIRED") return this._lost(1008, "token_missing");
    this._lost(4001, code === "TOKEN_EXPIRED" ? "token_expired" : "token_invalid");
  }

  #end(state, detail) {
    this.#drop();
    this.#stopPolling();
    clearTimeout(this.#timers.token);
    this.#become(state, detail);
  }

  /** Say something now, if there is somebody to hear it. */
  _say(message) {
    if (this.#open) this.#socket?.send(JSON.stringify(message));
  }

  #ping() {
    this.#pingedAt = performance.now();
    this._say({ type: "ping", data: { n: ++this.#pings, sent: this.#pingedAt } });
  }

  /** Give up unless something arrives within `wait` ms. */
  #watch(wait = SILENCE_MS) {
    clearTimeout(this.#timers.silence);
    if (this.#hidden) return;
    const due = performance.now() + wait;
    this.#timers.silence = setTimeout(() => {
      // A stalled page has messages waiting.
      if (performance.now() - due > 500) this.#watch(1000);
      else this._lost(1006, "silent");
    }, wait);
  }

  #take(message) {
    const { type, data } = message;
    if (type === "pong" && data?.sent) this.roundTrip = performance.now() - data.sent;
    if (type === "ping") {
      this.clock.told(data?.timestamp, this.roundTrip / 2);
      this._say({ type: "pong", data });
    }
    this._take(message);
  }

  // -- polling --

  async #startPolling() {
    const poll = (this.#poll = new AbortController());
    const ask = async (topic) => {
      const path = this.#at(`/api/${topic.topic}`, position(topic)).href;
      const message = await this.call("GET", path, undefined, { signal: poll.signal }).catch((error) => {
        if (![403, 404].includes(error.status)) throw error;
        if (poll === this.#poll) topic._refused(error.status === 403 ? "forbidden" : "unknown_topic");
      });
      if (poll !== this.#poll || !message) return;
      this.heardAt = performance.now();
      this._up();
      topic._update(message);
    };
    while (poll === this.#poll) {
      const late = setTimeout(() => poll.abort(), SILENCE_MS);
      try {
        await Promise.all(this._topics.map(ask));
      } catch (error) {
        if (poll !== this.#poll) return;
        this.#poll = null;
        if (error.status === 401) return this.#refuse(error);
        this.#become("reconnecting", { code: 1006, reason: "no_answer" });
      } finally {
        clearTimeout(late);
      }
      await pause(POLL_MS);
    }
  }

  #stopPolling() {
    this.#poll?.abort();
    this.#poll = null;
  }

  #seen = () => {
    if (this.#hidden) {
      this._say({ type: "pause" });
      clearTimeout(this.#timers.retry);
      clearTimeout(this.#timers.silence);
      this.#stopPolling();
    } else if (this.#open) {
      this._say({ type: "resume" });
      if (performance.now() - this.#pingedAt > 1000) this.#ping();
      this.#watch();
    } else this.retry();
  };
}

/** One topic on a link of its own; its fields are for reading. */
export class TopicClient extends Link {
  /** @type {Map<EntityId, Entity>} by id; that of `status` is under "status" */
  entities = new Map();
  /** @type {number | null} */
  offset = null;
  /** @type {string | null} */
  epoch = null;

  /**
   * @param {Topic} topic
   * @param {LinkOptions & TopicOptions} [options]
   */
  constructor(topic, options = {}) {
    super(options);
    this.topic = topic;
    this.retry();
  }

  /** @returns {[string, object]} */
  get _address() {
    return [`/ws/${this.topic}`, { ...position(this), interval: this._options.interval }];
  }

  get _topics() {
    return [this];
  }

  _take(message) {
    if (message.type === "update") this._update(message);
  }

  _update(message) {
    const info = apply(this, message);
    if (!info) return this._lost(1006, "gap");
    this._up();
    this._options.onChange?.(this.entities, info);
  }

  _refused(reason) {
    this._lost(1008, reason);
  }
}

/**
 * `new TopicClient(topic, options)`
 *
 * @param {Topic} topic
 * @param {LinkOptions & TopicOptions} [options]
 */
export const follow = (topic, options) => new TopicClient(topic, options);

// -- sessions ---------------------------------------------------------------------------------------------------------

/** What the server may ask of us: who answers, how that is said, and what is said where nobody knew an answer. */
const CALLBACKS = {
  clarification_request: { handler: "onClarification", about: (m) => [m.question, m.options ?? []], type: "human_response", field: "response" },
  request_available_data: { handler: "onAvailableData", about: (m) => [m.question], type: "available_data", field: "data", none: [] },
  request_api: { handler: "onApi", about: (m) => [m.api, m.params], type: "api_result", field: "result", none: null },
};
const CAPABILITIES = { onAvailableData: "available_data", onApi: "api", onClarification: "clarification" };
const TOPIC_ERRORS = { FORBIDDEN: "forbidden", NOT_FOUND: "unknown_topic", TOPIC_FULL: "topic_full", STORAGE_UNAVAILABLE: "storage_unavailable", INTERNAL: "internal" };

/** One topic of a session, with the same fields as a TopicClient. */
export class Subscription {
  /** @type {Map<EntityId, Entity>} */
  entities = new Map();
  /** @type {number | null} */
  offset = null;
  /** @type {string | null} */
  epoch = null;
  /** @type {State} */
  state = "connecting";
  /** @type {Detail} */
  detail = {};
  isRefused = false;

  /** @type {Session} */
  #session;
  /** @type {TopicOptions} */
  #options;
  /** @type {number | null} */
  #heardAt = null;
  #isAwaited = true; // until its first message, what comes is of an earlier subscription
  #timer;

  /**
   * @param {Session} session
   * @param {Topic} topic
   * @param {TopicOptions} options
   */
  constructor(session, topic, options) {
    this.topic = topic;
    this.#session = session;
    this.#options = options;
  }

  /** performance.now() of when its state was last known to be true. */
  get heardAt() {
    return isUp(this.state) ? this.#session.heardAt : this.#heardAt;
  }

  /** End it. */
  close() {
    this.#session._unsubscribe(this);
    this._became("closed");
  }

  _ask() {
    this.#isAwaited = true;
    this.isRefused = false;
    this.#session._say({ type: "subscribe", topic: this.topic, interval: this.#options.interval, ...position(this) });
  }

  _update(message) {
    if (this.#isAwaited && !message.snapshot && !message.recovered) return;
    const info = apply(this, message);
    if (!info) return this._ask();
    this.#isAwaited = this.isRefused = false;
    this._became(this.#session.state);
    this.#options.onChange?.(this.entities, info);
  }

  _refused(reason) {
    this.isRefused = reason === "forbidden" || reason === "unknown_topic";
    this._became(this.isRefused ? "stopped" : "reconnecting", { code: 1008, reason });
    if (!this.isRefused) this.#timer = setTimeout(() => this._ask(), FULL_MS);
  }

  _became(state, detail = {}) {
    clearTimeout(this.#timer);
    if (this.state === "closed" || (state === this.state && detail.reason === this.detail.reason)) return;
    if (isUp(this.state) && !isUp(state)) this.#heardAt = this.#session.heardAt;
    this.state = state;
    this.detail = detail;
    this.#options.onState?.(state, detail);
  }
}

/** Many topics, questions and answers, messages of colleagues on one link; its fields are for reading. */
export class Session extends Link {
  /** @type {string | null} */
  userId = null;
  /** @type {string[]} */
  roles = [];
  /** @type {string[]} */
  rights = [];
  /** @type {string | null} */
  sessionId = null;
  /** @type {Map<Topic, Subscription>} */
  topics = new Map();
  /** @type {Map<number, StaffMessage>} */
  unread = new Map();

  #token = ""; // to go on with the session
  #answered = 0; // number up to which all answers came
  #hasCaughtUp = false; // what waited for us has come, since the link is up
  #requests = new Map(); // id -> {message, onProgress, promise, resolve, reject, timer}
  #asked = new Map(); // id of a request of ours -> the question to us that it waits for
  #links = 0; // so far
  #read = new Set(); // staff messages

  /** @param {SessionOptions} [options] */
  constructor(options = {}) {
    super(options);
    this.retry();
  }

  /**
   * Watch a topic.
   *
   * @param {Topic} topic
   * @param {TopicOptions} [options]
   */
  subscribe(topic, options = {}) {
    if (this.topics.has(topic)) throw new Error(`${topic} is subscribed to already`);
    const subscription = new Subscription(this, topic, options);
    this.topics.set(topic, subscription);
    if (isUp(this.state)) subscription._ask();
    else subscription._became(this.state, this.detail);
    return subscription;
  }

  /**
   * Ask a question; the promise is settled once, through lost links and restarts.
   *
   * @param {string} message
   * @param {RequestOptions} [options]
   * @returns {Promise<Response>}
   */
  request(message, { timeout = REQUEST_S, onProgress, capabilities, requestId = newId() } = {}) {
    const known = this.#requests.get(requestId);
    if (known) return known.promise;
    const entry = { message: { type: "query", requestId, message, capabilities }, onProgress };
    entry.promise = new Promise((resolve, reject) => Object.assign(entry, { resolve, reject }));
    this.#requests.set(requestId, entry);
    const fail = (code, text) => this.#settle(requestId, new RtError(code, text, { requestId }));
    if (isOver(this.state)) fail("CLOSED", "the session is over");
    else if (!fits(entry.message)) fail("TOO_LARGE", "the question is too long");
    else {
      if (timeout * 1000 < LONGEST_TIMER_MS) {
        entry.timer = setTimeout(() => fail("TIMEOUT", `no answer within ${timeout} s`), timeout * 1000);
      }
      if (this.#hasCaughtUp) this._say(entry.message);
    }
    return entry.promise;
  }

  /**
   * Write to a user, or to a role (`role:kitchen`); return the message as it is stored.
   *
   * @param {string} recipient
   * @param {string} message
   * @param {MessageOptions} [options]
   * @returns {Promise<StaffMessage & { recipientKnown?: boolean }>}
   */
  async sendMessage(recipient, message, { type, audioUrl, key = newId() } = {}) {
    const body = { recipient, message, message_type: type, audio_url: audioUrl };
    for (let pause_ms = 1000; ; pause_ms *= 2) {
      try {
        return await this.call("POST", "/api/messages", body, { headers: { "Idempotency-Key": key } });
      } catch (error) {
        if (pause_ms > 2000 || !["NO_ANSWER", "STORAGE_UNAVAILABLE"].includes(error.code)) throw error;
        await pause(pause_ms);
      }
    }
  }

  /**
   * Mark a staff message as read; without a link, as soon as there is one.
   *
   * @param {number} id
   */
  markRead(id) {
    this.unread.delete(id);
    this.#read.add(id);
    this._say({ type: "message_read", messageId: id });
  }

  /** @returns {[string, object]} */
  get _address() {
    const capabilities = Object.keys(CAPABILITIES).filter((handler) => this._options[handler]).map((handler) => CAPABILITIES[handler]);
    const query = { device: this._options.device, session: this.#token, capabilities: capabilities.join() || "none" };
    return ["/ws", this.#token ? { ...query, answered: this.#answered } : query];
  }

  get _topics() {
    return [...this.topics.values()].filter((topic) => !topic.isRefused);
  }

  _unsubscribe({ topic, isRefused }) {
    if (this.topics.delete(topic) && !isRefused) this._say({ type: "unsubscribe", topic });
  }

  _became(state, detail) {
    if (!isUp(state)) {
      this.#hasCaughtUp = false;
      for (const topic of this._topics) topic._became(state, detail);
    }
    if (!isOver(state)) return;
    for (const id of this.#requests.keys()) this.#settle(id, new RtError("CLOSED", "the session is over", { reason: detail.reason }));
    for (const question of this.#asked.values()) question.over.abort();
  }

  // -- what the server says --

  _take(message) {
    const options = this._options;
    switch (message.type) {
      case "update":
        this.topics.get(message.topic)?._update(message);
        break;
      case "connected":
        this.#connected(message);
        break;
      case "pong":
        this.#askAgain();
        break;
      case "progress":
        this.#requests.get(message.requestId)?.onProgress?.(message.message);
        break;
      case "response":
        this.#final(message, message);
        break;
      case "error":
        this.#error(message);
        break;
      case "staff_message":
        if (this.#read.has(message.id)) this.markRead(message.id);
        else if (!this.unread.has(message.id)) {
          this.unread.set(message.id, message);
          options.onStaffMessage?.(message);
        }
        break;
      case "message_read":
        if (message.userId === this.userId) this.unread.delete(message.messageId);
        options.onMessageRead?.(message);
        break;
      default:
        if (CALLBACKS[message.type]) this.#question(message);
    }
    options.onMessage?.(message);
  }

  #connected({ sessionId, sessionToken, userId, roles = [], rights = [], serverTime, resumed }) {
    Object.assign(this, { sessionId, userId, roles, rights });
    this.#token = sessionToken;
    this.#links += 1;
    if (!resumed) this.#answered = 0;
    this.clock.told(Date.parse(serverTime) / 1000);
    this._up();
    for (const topic of this.topics.values()) topic._ask(); // the refused ones too: roles change
    this._options.onConnected?.(this);
  }

  /**
   * The first pong comes after all answers that waited for us. A question without one may never have arrived, so it is asked
   * again under the same id, which the server answers once.
   */
  #askAgain() {
    if (this.#hasCaughtUp || this.state !== "connected") return;
    this.#hasCaughtUp = true;
    for (const { message } of this.#requests.values()) this._say({ ...message, again: true });
  }

  #error({ topic, requestId, seq, data }) {
    const id = requestId ?? data.requestId;
    const { code, message, retry_after: retryAfter, remaining } = data;
    if (this.#requests.has(id)) this.#final({ requestId: id, seq }, new RtError(code, message, { requestId: id, retryAfter, remaining }));
    else if (this.topics.has(topic)) this.topics.get(topic)?._refused(TOPIC_ERRORS[code] ?? code);
    else this._options.onError?.(new RtError(code, message, { ...data, retryAfter }));
  }

  /** Take a final answer. One that came before settles nothing; one that an older session was given has a strange number. */
  #final({ requestId, seq }, outcome) {
    if (seq === this.#answered + 1) this.#answered = seq;
    this.#settle(requestId, outcome);
    this.#overWith(requestId);
  }

  #settle(requestId, outcome) {
    const entry = this.#requests.get(requestId);
    if (!entry) return;
    this.#requests.delete(requestId);
    clearTimeout(entry.timer);
    if (outcome instanceof Error) return entry.reject(outcome);
    const { response, remaining, seq } = outcome;
    entry.resolve({ requestId, response, remaining, seq });
  }

  /**
   * Answer what the server asks. After a lost link or a restart it asks again, perhaps under another id: who was asked is not
   * asked twice, and what was answered is said again.
   */
  async #question(message) {
    const { requestId, queryId, timeout } = message;
    const { handler, about, type, field, none } = CALLBACKS[message.type];
    if (!this._options[handler]) return;
    const asks = JSON.stringify([type, ...about(message)]);
    const known = this.#asked.get(queryId);
    if (known?.asks === asks && (known.requestId === requestId || known.link < this.#links)) {
      Object.assign(known, { requestId, link: this.#links });
      this.#overAfter(known, timeout);
      return this.#answer(known);
    }
    this.#overWith(queryId);
    const entry = { asks, queryId, requestId, link: this.#links, over: new AbortController(), type, field, value: undefined };
    this.#asked.set(queryId, entry);
    this.#overAfter(entry, timeout);
    let value;
    try {
      value = await this._options[handler](...about(message), { queryId, timeout, signal: entry.over.signal });
    } catch (error) {
      console.error(error);
    }
    value ??= none;
    if (value === undefined || entry.over.signal.aborted) return;
    entry.value = fits({ type, requestId, [field]: value }) ? value : none;
    this.#answer(entry);
  }

  #answer({ type, requestId, field, value }) {
    if (value !== undefined) this._say({ type, requestId, [field]: value });
  }

  #overAfter(entry, timeout) {
    clearTimeout(entry.timer);
    entry.timer = setTimeout(() => this.#asked.get(entry.queryId) === entry && this.#overWith(entry.queryId), timeout * 1000);
  }

  #overWith(queryId) {
    const entry = this.#asked.get(queryId);
    if (!entry) return;
    clearTimeout(entry.timer);
    this.#asked.delete(queryId);
    entry.over.abort();
  }
}

/**
 * `new Session(options)`
 *
 * @param {SessionOptions} [options]
 */
export const connect = (options) => new Session(options);
