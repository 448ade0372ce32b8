/**
 * The page on the kitchen wall: shows what whoever is in front of it may see, over one session.
 *
 * Changes only mark what has to be drawn; drawing happens once per animation frame. Ages are redrawn each second.
 * For tests: `window.robodyne.topics` and `document.documentElement.dataset.connection`.
 */

import { Account } from "./account.js";
import { Copilot } from "./copilot.js";
import { all, attribute, byId, element, first, keyed, text } from "./dom.js";
import { Floor } from "./floor.js";
import { Language } from "./i18n.js";
import { isOpen, Lists, urgency } from "./lists.js";
import { Messages } from "./messages.js";
import { call, connect, ServerClock } from "./robodyne-client.js";

const TOPICS = ["robots", "tables", "orders", "events", "systemlogs", "inventory", "status"];
const LOST_MS = 2000; // nothing heard for this long, on a link that is down
const FIRST_TRY_MS = 2500;
const RETRY_MS = 2000;
const SKEW_MS = 2000;
const KEPT = 300; // events and logs in memory; a wall never reloads
const DEVICE_KEY = "robodyne.device";

const language = new Language();
const clock = new ServerClock();
/** @type {Map<string, import("./robodyne-client.js").Subscription>} */
const topics = new Map();
const state = Object.fromEntries(TOPICS.map((topic) => [topic, new Map()]));
const openedAt = performance.now();
/** @type {import("./robodyne-client.js").Session | null} */
let session = null;
let door = false; // somebody has to log in
/** @type {object | null} */
let starting = null;
const windows = new BroadcastChannel("robodyne"); // the other windows of this browser share our login
let isOwnLogOut = false; // in one of them

/** @type {any} */ (window).robodyne = {
  topics,
  clock,
  get session() {
    return session;
  },
};

// -- who is here ------------------------------------------------------------------------------------------------------

const isAllowed = (rights, right) => rights.includes("*") || rights.includes(right) || (right.startsWith("read:") && rights.includes("read:*"));
const maySee = (rights) => rights.some((right) => right === "*" || right === "query" || right.startsWith("read:"));

const account = new Account({
  language,
  onChange: () => start(),
  onLogOut: () => {
    windows.postMessage("log out");
    leave();
  },
});
const copilot = new Copilot({ language, open: () => open("copilot") });
const messages = new Messages({ language, clock });

/** Find out who is here, and show them what they may see. */
async function start() {
  const attempt = (starting = {});
  isOwnLogOut = false;
  leave();
  /** @type {any} */
  let me = null;
  while (me === null) {
    me = await call("GET", "/api/auth/me").catch(() => null);
    if (me === null) await new Promise((done) => setTimeout(done, RETRY_MS));
    if (attempt !== starting) return;
  }
  if (!maySee(me.rights)) return ask(me);
  door = false;
  const mine = (session = connect({
    clock,
    device: deviceName(),
    tries: Infinity,
    onConnected: ({ rights }) => admit(rights, me),
    onState: (now, { reason = "" }) => {
      // A token that is over, or was taken back: what it showed has to go.
      if (now === "stopped" && mine === session && /^token_/.test(reason)) ask(me, me.user === null || isOwnLogOut ? "" : reason);
      else draw("connection");
    },
    onClarification: copilot.clarify,
    onStaffMessage: () => draw("messages"),
    onMessageRead: (receipt) => messages.wasRead(receipt),
  }));
  copilot.use(session);
  messages.use(session);
  account.show(me);
  admit(me.rights, me);
}

/** End what was shown to whoever was here. */
function leave() {
  const old = session;
  session = null;
  for (const topic of [...topics.keys()]) unwatch(topic);
  old?.close();
  copilot.use(null);
  messages.use(null);
  open(null);
  for (const button of all("[data-opens], #log-in")) attribute(button, "hidden", "");
  drawAll();
}

/** Show the login; `reason` is why the server threw somebody out. */
function ask(me, reason = "") {
  starting = null;
  leave();
  door = true;
  paintConnection();
  account.ask(me.user === null && maySee(me.rights), reason);
  drawAll();
}

/** Show what these rights allow. */
function admit(rights, { user, mode }) {
  for (const topic of TOPICS) {
    if (!isAllowed(rights, `read:${topic}`)) unwatch(topic);
    else if (!topics.has(topic)) watch(topic);
  }
  const isKnown = user !== null && mode !== "off";
  const shows = { copilot: isAllowed(rights, "query"), write: isAllowed(rights, "message"), account: isKnown };
  for (const [name, shown] of Object.entries(shows)) attribute(opener(name), "hidden", shown ? null : "");
  attribute(byId("log-in"), "hidden", user === null ? null : "");
  drawAll();
}

/** This browser's name in the list of sessions. */
function deviceName() {
  try {
    const name = localStorage.getItem(DEVICE_KEY) ?? `page-${Math.random().toString(36).slice(2, 8)}`;
    localStorage.setItem(DEVICE_KEY, name);
    return name;
  } catch {
    return "page"; // storage may be forbidden
  }
}

// -- following --------------------------------------------------------------------------------------------------------

/** What has to be drawn again when a topic changes; orders and events name tables and robots. */
const DRAWS = {
  robots: ["floor", "robots"],
  tables: ["floor", "orders", "events"],
  orders: ["orders"],
  events: ["events"],
  systemlogs: ["logs"],
  inventory: ["stock"],
  status: ["status"],
};

/** Forget what no list shows any more. */
function trim(topic, entities) {
  if (entities.size <= KEPT) return;
  if (topic === "events" || topic === "systemlogs") {
    for (const id of [...entities.keys()].sort((a, b) => a - b).slice(0, entities.size - KEPT)) entities.delete(id);
  }
  if (topic === "orders") for (const order of entities.values()) if (!isOpen(order)) entities.delete(order.id);
}

function watch(topic) {
  if (!session) return;
  const subscription = session.subscribe(topic, {
    onChange: (entities) => {
      trim(topic, entities);
      draw(...DRAWS[topic]);
    },
    onState: () => {
      if (subscription.isRefused) unwatch(topic); // a right that was taken away
      draw("connection");
    },
  });
  topics.set(topic, subscription);
  state[topic] = subscription.entities;
}

function unwatch(topic) {
  topics.get(topic)?.close();
  topics.delete(topic);
  state[topic] = new Map();
  draw(...DRAWS[topic], "connection");
}

// -- panels -----------------------------------------------------------------------------------------------------------

const opener = (name) => first(`[data-opens="${name}"]`);

/** Show one panel beside the wall; null for none. */
function open(name) {
  attribute(byId("panel"), "hidden", name ? null : "");
  for (const pane of all(".pane")) {
    attribute(pane, "hidden", pane.id === name ? null : "");
    attribute(opener(pane.id), "aria-expanded", pane.id === name);
  }
  if (name === "copilot") copilot.recall();
  if (name === "write") messages.recall();
}

const opened = () => document.querySelector(".pane:not([hidden])")?.id ?? null;

function close() {
  const name = opened();
  open(null);
  if (name) opener(name).focus();
}

for (const button of all("[data-opens]")) {
  button.addEventListener("click", () => {
    const name = button.dataset.opens;
    if (opened() === name) return close();
    open(name);
    (byId(name).querySelector("form:not([hidden]) :is(input, select)") ?? byId(name)).focus();
  });
}
for (const button of all(".pane .close")) button.addEventListener("click", close);
byId("panel").addEventListener("keydown", (event) => event.key === "Escape" && close());
byId("log-in").addEventListener("click", () => ask({ user: null, rights: ["read:*"] }));

// -- drawing ----------------------------------------------------------------------------------------------------------

const floor = new Floor({ box: byId("plan"), details: byId("details"), language, clock, changed: () => draw("floor") });
const lists = new Lists({ language, clock, topics: state });

const PAINT = {
  floor: () => floor.draw(state.tables, state.robots),
  robots: () => lists.robots(),
  orders: () => lists.orders(),
  events: () => lists.events(),
  logs: () => lists.logs(),
  stock: () => lists.stock(),
  status: paintStatus,
  connection: paintConnection,
  account: () => account.paint(),
  copilot: () => copilot.paint(),
  messages: () => messages.paint(),
  words: paintWords,
  rest: () => lists.rest(),
};

const waiting = new Set();

function draw(...parts) {
  if (!waiting.size) requestAnimationFrame(paint);
  for (const part of parts) waiting.add(part);
}

function paint() {
  const parts = [...waiting];
  waiting.clear();
  for (const part of parts) PAINT[part]();
}

const drawAll = () => draw(...Object.keys(PAINT));

function paintWords() {
  for (const node of all("[data-i18n]")) text(node, language.say(node.dataset.i18n));
  for (const node of all("[data-i18n-label]")) {
    attribute(node, "aria-label", language.say(node.dataset.i18nLabel));
  }
  for (const node of all("[data-i18n-placeholder]")) {
    attribute(node, "placeholder", language.say(node.dataset.i18nPlaceholder));
  }
  text(byId("language"), language.say("language"));
  attribute(byId("language"), "lang", language.code === "ko" ? "en" : "ko");
  text(byId("floor-scale"), language.say("grid"));
}

// -- at a glance ------------------------------------------------------------------------------------------------------

const paintCounters = keyed(byId("counters"), {
  key: (counter) => counter.name,
  create: () => element("div", "counter", element("span", "label"), element("b", "big"), element("span", "more")),
  update: (node, { name, value, more, level }) => {
    const [label, number, rest] = node.children;
    attribute(node, "data-counter", name);
    attribute(node, "data-level", level ?? "calm");
    text(label, language.say(name));
    text(number, value);
    text(rest, more);
  },
});

const sum = (counts) => Object.values(counts ?? {}).reduce((total, count) => total + count, 0);
const listed = (kind, counts) =>
  Object.entries(counts ?? {})
    .sort((a, b) => b[1] - a[1])
    .map(([code, count]) => `${language.word(kind, code)} ${count}`);

const paintProblemRows = keyed(first("#problems ul"), {
  key: (problem) => problem.id,
  create: () => element("li", "", element("b"), element("span", "since"), element("span", "remedy"), element("code")),
  update: (node, { id, severity, since, text: words = {}, remedy = {}, detail }) => {
    const [what, from, todo, evidence] = node.children;
    const at = Date.parse(since);
    attribute(node, "data-problem", id);
    attribute(node, "data-severity", severity);
    text(what, `${severity === "error" ? "✖" : "▲"} ${words[language.code] ?? words.en ?? id}`);
    text(from, Number.isNaN(at) ? "" : language.say("sinceTime", { time: language.clock.format(at) }));
    text(todo, remedy[language.code] ?? remedy.en);
    text(evidence, detail);
  },
});

/** What is wrong with the server itself, the worst first. */
function paintProblems(problems) {
  const isError = ({ severity }) => severity === "error";
  paintProblemRows([...problems.filter(isError), ...problems.filter((problem) => !isError(problem))]);
  attribute(byId("problems"), "hidden", problems.length ? null : "");
}

function paintStatus() {
  const status = state.status.get("status");
  paintProblems(status?.problems ?? []);
  if (!status) return paintCounters(["robots", "orders", "calling", "unacknowledged", "stock"].map((name) => ({ name, value: "–", more: "" })));
  const { robots = {}, tables = {}, orders = {}, events = {}, stock = {}, server = {}, storage = {} } = status;
  const name = server.name || "robodyne";
  text(byId("name"), name);
  if (document.title !== name) document.title = name;
  const stored = storage.state ?? "ok";
  attribute(byId("storage"), "hidden", stored === "ok" ? "" : null);
  text(byId("storage"), `▲ ${language.say("storageState", { state: stored })}`);

  const links = robots.by_link ?? {};
  const away = listed("link", { ...links, ONLINE: 0 }).filter((words) => !words.endsWith(" 0"));
  const faults = (robots.by_status?.ERROR ?? 0) + (robots.by_status?.EMERGENCY ?? 0);
  const oldest = clock.now() - Date.parse(orders.oldest_placed_at);
  const calling = tables.by_status?.CALLING ?? 0;
  const low = stock.low ?? [];
  paintCounters([
    {
      name: "robots",
      value: `${links.ONLINE ?? 0}/${sum(links)}`,
      more: [...away, ...listed("robot", robots.by_status)].join(" · "),
      level: faults ? "bad" : away.length ? "warn" : "calm",
    },
    {
      name: "orders",
      value: orders.open ?? 0,
      more: Number.isNaN(oldest) ? "" : language.say("oldest", { age: language.age(oldest) }),
      level: Number.isNaN(oldest) ? "calm" : { fresh: "calm", slow: "warn", late: "bad" }[urgency(oldest)],
    },
    { name: "calling", value: calling, more: language.say("ofTables", { n: sum(tables.by_status) }), level: calling ? "warn" : "calm" },
    { name: "unacknowledged", value: events.unacknowledged ?? 0, more: "", level: events.unacknowledged ? "warn" : "calm" },
    {
      name: "stock",
      value: low.length,
      more: low.length ? low.map((item) => item.name).join(", ") : language.say("allGood"),
      level: low.some((item) => item.status === "OUT_OF_STOCK") ? "bad" : low.length ? "warn" : "calm",
    },
  ]);
}

// -- the link ---------------------------------------------------------------------------------------------------------

const isUp = (client) => client.state === "connected" || client.state === "polling";

/** Return `{word, since, client}`: the state of the worst topic. */
function connection() {
  if (door) return { word: "login" };
  /** @type {Pick<import("./robodyne-client.js").Session, "state" | "detail" | "heardAt">[]} */
  const clients = topics.size ? [...topics.values()] : [session ?? { state: "connecting", detail: {}, heardAt: null }];
  const stopped = clients.find((client) => client.state === "stopped");
  if (stopped) return { word: "stopped", client: stopped };
  const down = clients.filter((client) => !isUp(client));
  if (!down.length) return { word: "connected", polling: clients.some((client) => client.state === "polling") };
  const heard = down.map((client) => client.heardAt).filter((at) => at !== null);
  const client = down.find((one) => one.detail.reason) ?? down[0];
  const since = heard.length ? Math.min(...heard) : null;
  const lost = performance.now() - (since ?? openedAt) > (since === null ? FIRST_TRY_MS : LOST_MS);
  return { word: lost ? "lost" : "reconnecting", since, client };
}

function paintConnection() {
  const { word, since = null, client, polling } = connection();
  const root = document.documentElement;
  if (root.dataset.connection !== word) root.dataset.connection = word;
  const reason = client && language.say(client.detail.reason || "");
  const sign = { connected: "●", reconnecting: "◌", lost: "✕", stopped: "■", login: "○" }[word];
  const never = word === "reconnecting" && since === null;
  const said = language.say(polling ? "connectedPolling" : never ? "connecting" : word === "login" ? "loginNeeded" : word);
  text(byId("link"), `${sign} ${said}${word === "stopped" ? `: ${reason}` : ""}`);
  attribute(byId("link"), "data-state", word);

  // Wall time of the loss, by the server's clock; the running age stands outside of what a screen reader is told.
  const now = performance.now();
  let sentence = "";
  if (word === "stopped") sentence = language.say("stoppedBecause", { reason });
  if (word === "lost") {
    const time = since !== null && language.clock.format(clock.now() - (now - since));
    sentence = time ? language.say("lostSince", { time }) : language.say("neverConnected");
    if (client?.detail.reason === "topic_full") sentence += ` ${reason}.`;
  }
  attribute(byId("banner"), "hidden", sentence ? null : "");
  text(byId("banner-text"), sentence && `✕ ${sentence}`);
  const lastData = (at) => (at === null ? language.say("noData") : language.say("lastData", { age: language.age(now - at) }));
  text(byId("banner-age"), word === "lost" ? lastData(since) : "");
  for (const tile of all("[data-topics]")) {
    const watched = (tile.dataset.topics ?? "").split(" ").flatMap((topic) => topics.get(topic) ?? []);
    const down = watched.filter((one) => !isUp(one));
    const stale = down.length > 0 && (word === "lost" || word === "stopped");
    attribute(tile, "hidden", watched.length ? null : "");
    attribute(tile, "data-stale", stale ? "" : null);
    const age = tile.querySelector(".age");
    if (age) text(age, stale ? `✕ ${lastData(down[0].heardAt)}` : "");
  }
  const missing = [...byId("tiles").children].filter((tile) => tile.hidden).map((tile) => tile.id);
  attribute(byId("tiles"), "data-without", missing.join(" "));
  attribute(byId("door"), "hidden", door ? null : "");
  attribute(byId("work"), "hidden", door || !session ? "" : null);
  attribute(byId("nothing"), "hidden", topics.size || !session ? "" : null);
}

function paintClock() {
  text(byId("time"), language.clock.format(clock.now()));
  const ahead = clock.deviceAhead;
  const off = ahead !== null && Math.abs(ahead) > SKEW_MS;
  attribute(byId("skew"), "hidden", off ? null : "");
  if (off) text(byId("skew"), `▲ ${language.say(ahead > 0 ? "skewAhead" : "skewBehind", { age: language.age(Math.abs(ahead)) })}`);
}

byId("language").addEventListener("click", () => {
  language.toggle();
  drawAll();
});
setInterval(() => {
  paintConnection();
  paintClock();
}, 250);
setInterval(drawAll, 1000);
document.addEventListener("visibilitychange", drawAll);
addEventListener("resize", drawAll);
windows.addEventListener("message", () => (isOwnLogOut = true));
drawAll();
start();
