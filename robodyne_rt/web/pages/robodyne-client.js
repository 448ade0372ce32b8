/**
 * robodyne-rt in a browser: the state of a topic, kept from snapshots and updates, through lost links and restarts.
 *
 *     import { follow } from "/static/robodyne-client.js";
 *     const robots = follow("robots", { onChange: (entities, info) => draw(entities), onState: (state) => show(state) });
 *     robots.close();
 *
 * No dependencies, no build step. The rules are those of SPEC section 3.
 */

const PING_MS = 1100; // the server allows one ping per second
const SILENCE_MS = 2700; // a link without any message is lost within 3 s
const OPEN_MS = 5000;
const STABLE_MS = 10000;
const POLL_MS = 2000;
const TRIES_BEFORE_POLLING = 3;
const MAX_DELAY_S = 30;
const STOP = new Set([1003, 4001, 4004]);
const LOGIN = new Set(["token_missing", "token_expired", "token_invalid"]);

/** The server's clock, whatever this device believes. Share one between the topics of a page. */
export class ServerClock {
  #base = null; // server epoch ms when performance.now() is 0
  #exact = -Infinity;

  /** Server time in epoch milliseconds; this device's own until something better is known. */
  now() {
    return this.#base === null ? Date.now() : performance.now() + this.#base;
  }

  /** How far this device is ahead of the server, in ms; null while unknown. */
  get deviceAhead() {
    return this.#base === null ? null : Date.now() - this.now();
  }

  /** Take a server's own word, `timestamp` in epoch seconds, `latency` in ms. */
  told(timestamp, latency = 0) {
    if (!Number.isFinite(timestamp)) return;
    this.#exact = performance.now();
    this.#base = timestamp * 1000 + latency - this.#exact;
  }

  /** Take the `Date` of an HTTP answer (whole seconds), unless a ping was better in the last minute. */
  async guess(url) {
    if (performance.now() - this.#exact < 60000) return;
    try {
      const asked = performance.now();
      const response = await fetch(url, { cache: "no-store" });
      const heard = performance.now();
      const date = Date.parse(response.headers.get("Date"));
      // Cut to whole seconds, so half a second later on average; made about half way between question and answer.
      if (date && heard - this.#exact > 60000) this.#base = date + 500 - (asked + heard) / 2;
    } catch {
      // No answer, no guess; pings will tell.
    }
  }
}

/**
 * @typedef {object} Info what a change was made of
 * @property {boolean} snapshot the whole state was replaced
 * @property {boolean} recovered this is what was missed while the link was lost
 * @property {boolean} volatile live telemetry, not stored yet
 * @property {Array<number|string>} changed ids that are new or different
 * @property {number[]} removed ids that were deleted
 *
 * @typedef {"connecting"|"connected"|"polling"|"reconnecting"|"stopped"|"closed"} State
 */

/** One topic; `entities`, `offset` and `epoch` may be read at any time. */
export class TopicClient {
  /** @type {Map<number|string, object>} by id; of the topic `status`, its one object under "status" */
  entities = new Map();
  offset = null;
  epoch = null;
  /** @type {State} */
  state = "connecting";
  /** Why it is not connected: `{code, reason, login}`. */
  detail = {};
  /** performance.now() of the last word from the server; null before the first. */
  heardAt = null;
  /** Round trip of the newest ping in ms. */
  roundTrip = null;

  #options;
  #socket = null;
  #closed = false;
  #failures = 0; // for the backoff
  #unopened = 0; // attempts in a row that never opened
  #pings = 0;
  #lastPingAt = -Infinity;
  #timers = { retry: 0, ping: 0, silence: 0, open: 0, stable: 0, poll: 0 };
  #poll = null; // AbortController while polling

  /**
   * @param {string} topic
   * @param {object} [options]
   * @param {string} [options.url] of the server; default: where the page came from
   * @param {(entities: Map, info: Info) => void} [options.onChange]
   * @param {(state: State, detail: object) => void} [options.onState]
   * @param {number} [options.interval] seconds between two updates at least
   * @param {number} [options.limit] forget the oldest ids above this many ...
   * @param {(entity: object) => boolean} [options.droppable] ... of which this is true
   * @param {ServerClock} [options.clock]
   * @param {() => number} [options.random] for the jitter
   */
  constructor(topic, options = {}) {
    this.topic = topic;
    this.clock = options.clock ?? new ServerClock();
    this.#options = { url: globalThis.location?.origin, random: Math.random, limit: Infinity, ...options };
    globalThis.document?.addEventListener("visibilitychange", this.#seen);
    globalThis.addEventListener?.("online", this.#online);
    if (!this.#hidden) this.#connect();
  }

  /** End it for good. */
  close() {
    this.#closed = true;
    globalThis.document?.removeEventListener("visibilitychange", this.#seen);
    globalThis.removeEventListener?.("online", this.#online);
    this.#drop();
    this.#stopPolling();
    this.#become("closed");
  }

  get #hidden() {
    return globalThis.document?.hidden ?? false;
  }

  #address(scheme, path) {
    const url = new URL(`${path}/${this.topic}`, this.#options.url);
    if (scheme === "ws") url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
    if (this.epoch !== null) {
      url.searchParams.set("since", this.offset);
      url.searchParams.set("epoch", this.epoch);
    }
    if (scheme === "ws" && this.#options.interval) url.searchParams.set("interval", this.#options.interval);
    return url;
  }

  #become(state, detail = {}) {
    if (state === this.state && detail.reason === this.detail.reason) return;
    this.state = state;
    this.detail = detail;
    this.#options.onState?.(state, detail);
  }

  // -- the socket -----------------------------------------------------------------------------------------------------

  #connect() {
    this.#drop();
    if (this.#closed || this.state === "stopped") return;
    const socket = (this.#socket = new WebSocket(this.#address("ws", "/ws")));
    let opened = false;
    const ended = (code, reason) => {
      if (socket !== this.#socket) return;
      this.#unopened = opened ? 0 : this.#unopened + 1;
      this.#lost(code, reason);
    };
    this.#timers.open = setTimeout(() => ended(1006, "no_answer"), OPEN_MS);
    socket.onopen = () => {
      if (socket !== this.#socket) return;
      opened = true;
      this.#unopened = 0;
      clearTimeout(this.#timers.open);
      this.#timers.stable = setTimeout(() => (this.#failures = 0), STABLE_MS);
      this.#heard();
      this.clock.guess(new URL("/livez", this.#options.url));
      if (this.#hidden) this.#say({ type: "pause" });
      this.#ping();
      this.#timers.ping = setInterval(() => this.#hidden || this.#ping(), PING_MS);
    };
    socket.onmessage = (event) => {
      if (socket !== this.#socket) return;
      this.#heard();
      this.#take(JSON.parse(event.data));
    };
    socket.onclose = (event) => ended(event.code, event.reason);
  }

  /** Forget the socket without waiting for its close: on a dead link that may take minutes. */
  #drop() {
    for (const name of ["retry", "silence", "open", "stable"]) clearTimeout(this.#timers[name]);
    clearInterval(this.#timers.ping);
    const socket = this.#socket;
    this.#socket = null;
    socket?.close();
  }

  #lost(code, reason = "") {
    this.#drop();
    const login = LOGIN.has(reason);
    if (STOP.has(code) || (code === 1008 && reason !== "topic_full")) {
      this.#stopPolling();
      this.#become("stopped", { code, reason: reason || String(code), login });
      return;
    }
    if (!this.#poll) this.#become("reconnecting", { code, reason });
    if (this.#hidden) return;
    const delay = Math.min(2 ** this.#failures, MAX_DELAY_S) * (0.5 + this.#options.random());
    this.#failures += 1;
    this.#timers.retry = setTimeout(() => this.#connect(), delay * 1000);
    if (this.#unopened >= TRIES_BEFORE_POLLING && !this.#poll) this.#startPolling();
  }

  #say(message) {
    if (this.#socket?.readyState === 1) this.#socket.send(JSON.stringify(message));
  }

  #ping() {
    this.#lastPingAt = performance.now();
    this.#say({ type: "ping", data: { n: (this.#pings += 1), sent: this.#lastPingAt } });
  }

  /** Anything that arrives proves the link; `SILENCE_MS` of nothing ends it. */
  #heard() {
    this.heardAt = performance.now();
    this.#watch(SILENCE_MS);
  }

  #watch(wait) {
    clearTimeout(this.#timers.silence);
    if (this.#hidden) return;
    const due = performance.now() + wait;
    this.#timers.silence = setTimeout(() => {
      // A page that was stalled itself must not blame the link: messages may be waiting behind this timer.
      if (performance.now() - due > 500) this.#watch(1000);
      else this.#lost(1006, "silent");
    }, wait);
  }

  // -- what the server says -------------------------------------------------------------------------------------------

  #take(message) {
    if (message.type === "update") this.#update(message);
    else if (message.type === "ping") {
      this.clock.told(message.data?.timestamp, (this.roundTrip ?? 0) / 2);
      this.#say({ type: "pong", data: message.data });
    } else if (message.type === "pong" && message.data?.sent) this.roundTrip = performance.now() - message.data.sent;
  }

  #update({ data, removed = [], prev, offset, epoch, snapshot = false, recovered = false, volatile = false }) {
    if (!volatile && !snapshot) {
      if (this.offset === null || prev > this.offset) {
        this.#lost(1006, "gap");
        return;
      }
    }
    const list = Array.isArray(data) ? data : [{ ...data, id: "status" }];
    if (snapshot) this.entities.clear();
    for (const id of removed) this.entities.delete(id);
    for (const entity of list) this.entities.set(entity.id, entity);
    if (!volatile) this.offset = offset;
    if (epoch) this.epoch = epoch;
    this.#trim();
    if (this.#socket?.readyState === 1) this.#stopPolling();
    this.#become(this.#poll ? "polling" : "connected");
    const changed = list.map((entity) => entity.id);
    this.#options.onChange?.(this.entities, { snapshot, recovered, volatile, changed, removed });
  }

  #trim() {
    const { limit, droppable = () => true } = this.#options;
    if (this.entities.size <= limit) return;
    for (const id of [...this.entities.keys()].sort((a, b) => a - b)) {
      if (this.entities.size <= limit) return;
      if (droppable(this.entities.get(id))) this.entities.delete(id);
    }
  }

  // -- where WebSocket does not get through ---------------------------------------------------------------------------

  #startPolling() {
    const poll = (this.#poll = new AbortController());
    const ask = async () => {
      try {
        const signal = AbortSignal.any?.([poll.signal, AbortSignal.timeout(SILENCE_MS)]) ?? poll.signal;
        const response = await fetch(this.#address("http", "/api"), { signal, cache: "no-store" });
        const message = response.ok ? await response.json() : null;
        if (poll !== this.#poll) return;
        if (response.status === 401 || response.status === 403 || response.status === 404) {
          const reason = { 401: "token_missing", 403: "forbidden", 404: "unknown_topic" }[response.status];
          this.#lost(1008, reason);
          return;
        }
        if (!message) throw new Error(`HTTP ${response.status}`);
        this.heardAt = performance.now();
        this.#update(message);
      } catch {
        if (poll !== this.#poll) return;
        this.#become("reconnecting", { code: 1006, reason: "no_answer" });
      }
      if (poll === this.#poll) this.#timers.poll = setTimeout(() => this.#hidden || ask(), POLL_MS);
    };
    ask();
  }

  #stopPolling() {
    clearTimeout(this.#timers.poll);
    this.#poll?.abort();
    this.#poll = null;
  }

  // -- this page ------------------------------------------------------------------------------------------------------

  #seen = () => {
    if (this.#hidden) {
      this.#say({ type: "pause" });
      clearTimeout(this.#timers.retry);
      clearTimeout(this.#timers.silence);
      this.#stopPolling();
    } else if (this.#socket?.readyState === 1) {
      this.#say({ type: "resume" });
      if (performance.now() - this.#lastPingAt > 1000) this.#ping();
      this.#watch(SILENCE_MS);
    } else this.#online();
  };

  #online = () => {
    if (this.#hidden || this.#socket?.readyState === 1) return;
    this.#failures = 0;
    this.#connect();
  };
}

/** Follow a topic: `new TopicClient(topic, options)`. */
export const follow = (topic, options) => new TopicClient(topic, options);
