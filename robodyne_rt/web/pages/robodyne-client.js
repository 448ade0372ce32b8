/**
 * The state of a topic in a browser, through lost links and restarts.
 *
 *     import { follow } from "/static/robodyne-client.js";
 *     const robots = follow("robots", { onChange: (entities) => draw(entities), onState: show });
 *
 * Rules: SPEC section 3.
 */

const PING_MS = 1100; // one per second is allowed
const SILENCE_MS = 2700; // a dead link shows within 3 s
const OPEN_MS = 5000;
const STABLE_MS = 10000;
const POLL_MS = 2000;
const TRIES_BEFORE_POLLING = 3;
const MAX_DELAY_S = 30;
const REFUSED = { 401: "token_missing", 403: "forbidden", 404: "unknown_topic" }; // HTTP

/** The server's clock; share one between topics. */
export class ServerClock {
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

  /** Take a ping's `timestamp` (epoch seconds), `latency` ms old. */
  told(timestamp, latency = 0) {
    if (!Number.isFinite(timestamp)) return;
    this.#toldAt = performance.now();
    this.#base = timestamp * 1000 + latency - this.#toldAt;
  }

  /** Take the `Date` of an HTTP answer, unless the time is known well. */
  async guess(url) {
    const asked = performance.now();
    if (asked - Math.max(this.#toldAt, this.#askedAt) < 60000) return;
    this.#askedAt = asked;
    const response = await fetch(url, { cache: "no-store" }).catch(() => null);
    const date = Date.parse(response?.headers.get("Date"));
    if (date && this.#toldAt < asked) this.#base = date + 500 /* whole seconds, cut */ - (asked + performance.now()) / 2;
  }
}

/**
 * @typedef {object} Info what a change was made of
 * @property {boolean} snapshot all was replaced
 * @property {boolean} recovered what was missed
 * @property {boolean} volatile live, not stored yet
 * @property {Array} changed ids
 * @property {Array} removed ids
 *
 * @typedef {"connecting"|"connected"|"polling"|"reconnecting"|"stopped"|"closed"} State
 */

/** One topic; its fields are for reading. */
export class TopicClient {
  /** @type {Map<number|string, object>} by id; that of `status` is under "status" */
  entities = new Map();
  offset = null;
  epoch = null;
  /** @type {State} */
  state = "connecting";
  detail = {}; // why it is not connected: `{code, reason}`
  heardAt = null; // performance.now() of the server's last word
  roundTrip = 0; // of the newest ping, ms

  #options;
  #socket = null;
  #failures = 0; // for the backoff
  #unopened = 0; // attempts in a row that never opened
  #pings = 0;
  #pingedAt = 0;
  #timers = {};
  #poll = null; // AbortController while polling

  /**
   * @param {string} topic
   * @param {string} [options.url] default: the page's server
   * @param {(entities: Map, info: Info) => void} [options.onChange]
   * @param {(state: State, detail: object) => void} [options.onState]
   * @param {number} [options.interval] least seconds between two updates
   * @param {ServerClock} [options.clock]
   * @param {() => number} [options.random] jitter
   */
  constructor(topic, options = {}) {
    this.topic = topic;
    this.clock = options.clock ?? new ServerClock();
    this.#options = { url: globalThis.location?.origin, random: Math.random, ...options };
    globalThis.document?.addEventListener("visibilitychange", this.#seen);
    globalThis.addEventListener?.("online", this.retry);
    this.retry();
  }

  /** End it for good. */
  close() {
    globalThis.document?.removeEventListener("visibilitychange", this.#seen);
    globalThis.removeEventListener?.("online", this.retry);
    this.#end("closed");
  }

  get #hidden() {
    return globalThis.document?.hidden ?? false;
  }

  get #open() {
    return this.#socket?.readyState === 1;
  }

  #address(path, interval) {
    const url = new URL(path + this.topic, this.#options.url);
    if (this.epoch !== null) {
      url.searchParams.set("since", this.offset);
      url.searchParams.set("epoch", this.epoch);
    }
    if (interval) url.searchParams.set("interval", interval);
    return url;
  }

  #become(state, detail = {}) {
    if (state === this.state && detail.reason === this.detail.reason) return;
    this.state = state;
    this.detail = detail;
    this.#options.onState?.(state, detail);
  }

  #connect() {
    this.#drop();
    const url = this.#address("/ws/", this.#options.interval);
    url.protocol = url.protocol.replace("http", "ws");
    const socket = (this.#socket = new WebSocket(url));
    this.#unopened += 1;
    this.#timers.open = setTimeout(() => this.#lost(1006, "no_answer"), OPEN_MS);
    // A dropped socket is not heard.
    const on = (name, take) => socket.addEventListener(name, (event) => socket === this.#socket && take(event));
    on("open", () => {
      this.#unopened = 0;
      clearTimeout(this.#timers.open);
      this.#timers.stable = setTimeout(() => (this.#failures = 0), STABLE_MS);
      this.#timers.ping = setInterval(() => this.#hidden || this.#ping(), PING_MS);
      this.#watch();
      this.clock.guess(new URL("/livez", this.#options.url));
      if (this.#hidden) this.#say("pause");
      this.#ping();
    });
    on("message", (event) => {
      this.heardAt = performance.now();
      this.#watch();
      this.#take(JSON.parse(event.data));
    });
    on("close", (event) => this.#lost(event.code, event.reason));
  }

  /** No waiting: a dead link may take minutes to close. */
  #drop() {
    for (const name of ["retry", "silence", "open", "stable", "ping"]) clearTimeout(this.#timers[name]);
    const socket = this.#socket;
    this.#socket = null;
    socket?.close();
  }

  #lost(code, reason = "") {
    this.#drop();
    if ([1003, 4001, 4004].includes(code) || (code === 1008 && reason !== "topic_full")) {
      return this.#end("stopped", { code, reason: reason || String(code) });
    }
    if (!this.#poll) this.#become("reconnecting", { code, reason });
    if (this.#hidden) return;
    const delay_s = Math.min(2 ** this.#failures++, MAX_DELAY_S) * (0.5 + this.#options.random() / 2);
    this.#timers.retry = setTimeout(() => this.#connect(), delay_s * 1000);
    if (this.#unopened >= TRIES_BEFORE_POLLING && !this.#poll) this.#startPolling();
  }

  #end(state, detail) {
    this.#become(state, detail);
    this.#drop();
    this.#stopPolling();
  }

  #say(type, data) {
    if (this.#open) this.#socket.send(JSON.stringify({ type, data }));
  }

  #ping() {
    this.#pingedAt = performance.now();
    this.#say("ping", { n: ++this.#pings, sent: this.#pingedAt });
  }

  /** Give up unless something arrives within `wait` ms. */
  #watch(wait = SILENCE_MS) {
    clearTimeout(this.#timers.silence);
    if (this.#hidden) return;
    const due = performance.now() + wait;
    this.#timers.silence = setTimeout(() => {
      // A stalled page has messages waiting.
      if (performance.now() - due > 500) this.#watch(1000);
      else this.#lost(1006, "silent");
    }, wait);
  }

  #take(message) {
    const { type, data } = message;
    if (type === "update") this.#update(message);
    if (type === "pong" && data?.sent) this.roundTrip = performance.now() - data.sent;
    if (type === "ping") {
      this.clock.told(data?.timestamp, this.roundTrip / 2);
      this.#say("pong", data);
    }
  }

  #update({ data, removed = [], prev, offset, epoch, snapshot = false, recovered = false, volatile = false }) {
    if (!volatile && !snapshot && !(prev <= this.offset)) return this.#lost(1006, "gap");
    const list = Array.isArray(data) ? data : [{ ...data, id: "status" }];
    if (snapshot) this.entities.clear();
    for (const id of removed) this.entities.delete(id);
    for (const entity of list) this.entities.set(entity.id, entity);
    this.offset = offset ?? this.offset;
    this.epoch = epoch ?? this.epoch;
    if (this.#open) this.#stopPolling();
    this.#become(this.#poll ? "polling" : "connected");
    const changed = list.map((entity) => entity.id);
    this.#options.onChange?.(this.entities, { snapshot, recovered, volatile, changed, removed });
  }

  /** Where WebSocket does not get through. */
  async #startPolling() {
    const poll = (this.#poll = new AbortController());
    while (poll === this.#poll) {
      const late = setTimeout(() => poll.abort(), SILENCE_MS);
      try {
        const response = await fetch(this.#address("/api/"), { signal: poll.signal, cache: "no-store" });
        const message = response.ok && (await response.json());
        if (poll !== this.#poll) return;
        if (REFUSED[response.status]) return this.#lost(1008, REFUSED[response.status]);
        if (!message) throw new Error(`HTTP ${response.status}`);
        this.heardAt = performance.now();
        this.#update(message);
      } catch {
        if (poll !== this.#poll) return;
        this.#poll = null;
        this.#become("reconnecting", { code: 1006, reason: "no_answer" });
      } finally {
        clearTimeout(late);
      }
      await new Promise((done) => setTimeout(done, POLL_MS));
    }
  }

  #stopPolling() {
    this.#poll?.abort();
    this.#poll = null;
  }

  #seen = () => {
    if (this.#hidden) {
      this.#say("pause");
      clearTimeout(this.#timers.retry);
      clearTimeout(this.#timers.silence);
      this.#stopPolling();
    } else if (this.#open) {
      this.#say("resume");
      if (performance.now() - this.#pingedAt > 1000) this.#ping();
      this.#watch();
    } else this.retry();
  };

  /** Try again now, unless there is a link. */
  retry = () => {
    if (this.#hidden || this.#socket || ["stopped", "closed"].includes(this.state)) return;
    this.#failures = 0;
    this.#connect();
  };
}

/** `new TopicClient(topic, options)` */
export const follow = (topic, options) => new TopicClient(topic, options);
