/** The lists beside the floor plan: robots, open orders, events, system logs, low stock. */

import { attribute, below, byId, element, keyed, text } from "./dom.js";
import { LOW_BATTERY, mood } from "./floor.js";
import { timer } from "./i18n.js";

const SHOWN = 50;
const ROW_STALE_MS = 10000;
const SLOW_MS = 5 * 60 * 1000;
const LATE_MS = 8 * 60 * 1000;
const OPEN = new Set(["PLACED", "PREPARING", "READY", "SERVING"]);
const SEVERITY_SIGNS = { DEBUG: "·", INFO: "ℹ", WARNING: "▲", ERROR: "✖", CRITICAL: "‼" };

const isLive = () => document.documentElement.dataset.connection === "connected";

/** Whether an order is still somebody's work. */
export const isOpen = (order) => OPEN.has(order.status);

/** Return how urgent an order of this age is: `fresh`, `slow` or `late`. */
export function urgency(age) {
  if (age >= LATE_MS) return "late";
  return age >= SLOW_MS ? "slow" : "fresh";
}

/** What somebody has to go to comes first: a fault, a lost link, a robot that is away, an empty battery. */
function trouble({ status, link, battery_level: battery }) {
  if (status === "EMERGENCY" || status === "ERROR") return 0;
  if (link !== "ONLINE") return link === "CONNECTIONBROKEN" ? 1 : 2;
  return typeof battery === "number" && Math.round(battery) < LOW_BATTERY ? 3 : 4;
}

const newest = (entities) => [...entities.values()].sort((a, b) => b.id - a.id).slice(0, SHOWN);

export class Lists {
  #language;
  #clock;
  #topics;
  #draw = {};
  #lists = [];

  /**
   * @param {object} parts
   * @param {import("./i18n.js").Language} parts.language
   * @param {import("./robodyne-client.js").ServerClock} parts.clock
   * @param {Record<string, Map>} parts.topics topic -> its entities by id
   */
  constructor({ language, clock, topics }) {
    this.#language = language;
    this.#clock = clock;
    this.#topics = topics;
    const list = (id, create, update) => {
      const section = byId(id);
      const rows = section.querySelector("ul");
      const more = element("li", "more");
      rows.append(more);
      rows.addEventListener("scroll", () => this.#sayMore(rows), { passive: true });
      this.#lists.push(rows);
      const draw = keyed(rows, {
        key: (entity) => entity.id,
        create: () => create(),
        update: (node, entity) => update.call(this, node, entity),
      });
      this.#draw[id] = (entities, emptyWord) => {
        draw(entities);
        attribute(rows, "hidden", entities.length ? null : "");
        const empty = section.querySelector(".empty");
        text(empty, language.say(emptyWord));
        attribute(empty, "hidden", entities.length ? "" : null);
        const count = section.querySelector(".count");
        if (count) text(count, entities.length || "");
      };
    };
    list("robots", newRobotRow, this.#robot);
    list("orders", newOrderRow, this.#order);
    list("events", newEventRow, this.#event);
    list("logs", newLogRow, this.#log);
    list("stock", newStockRow, this.#stock);
  }

  robots() {
    const robots = [...this.#topics.robots.values()];
    const byName = (a, b) => String(a.robot_id).localeCompare(b.robot_id, "en", { numeric: true });
    this.#draw.robots(robots.sort((a, b) => trouble(a) - trouble(b) || byName(a, b)), "noRobots");
  }

  orders() {
    const orders = [...this.#topics.orders.values()].filter(isOpen);
    this.#draw.orders(orders.sort((a, b) => Date.parse(a.timestamp) - Date.parse(b.timestamp) || a.id - b.id), "noOrders");
  }

  events() {
    this.#draw.events(newest(this.#topics.events), "noEvents");
  }

  logs() {
    this.#draw.logs(newest(this.#topics.systemlogs), "noLogs");
  }

  stock() {
    const low = [...this.#topics.inventory.values()].filter((item) => item.status !== "IN_STOCK");
    this.#draw.stock(low.sort((a, b) => a.count / (a.threshold || 1) - b.count / (b.threshold || 1)), "noStock");
  }

  /** Say how much of each list is below its edge. */
  rest() {
    for (const rows of this.#lists) this.#sayMore(rows);
  }

  #sayMore(rows) {
    const more = rows.lastElementChild;
    const children = [...rows.children].slice(0, -1);
    // Seen is what ends above this line itself; whether it is needed must not depend on it.
    const isCut = below(rows, children.slice(-1)) > 0;
    attribute(more, "hidden", isCut ? null : "");
    text(more, isCut ? this.#language.say("more", { n: below(rows, children, more.offsetHeight) }) : "");
  }

  #age(time) {
    return this.#clock.now() - Date.parse(time);
  }

  #ago(time) {
    const age = this.#age(time);
    return Number.isNaN(age) ? "–" : this.#language.say("ago", { age: this.#language.age(age) });
  }

  #robot(node, robot) {
    const { say, word, age: length } = this.#words();
    const age = this.#age(robot.last_seen);
    const online = robot.link === "ONLINE";
    const stale = !online || !(age <= ROW_STALE_MS);
    const level = typeof robot.battery_level === "number" ? Math.round(robot.battery_level) : null;
    const [name, status, battery, link] = node.children;
    attribute(node, "class", `${mood(robot.status)}${stale ? " stale" : ""}${online ? "" : " away"}`);
    attribute(node, "data-robot-row", robot.robot_id);
    text(name, robot.name || robot.robot_id);
    text(status, word("robot", robot.status));
    attribute(battery, "class", level !== null && level < LOW_BATTERY ? "battery low" : "battery");
    const [meter, percent] = battery.children;
    meter.value = level ?? 0;
    text(percent, level === null ? "–" : level < LOW_BATTERY ? `${level}% ${say("lowBattery")}` : `${level}%`);
    let words = say("neverSeen");
    // While the link is online, silence about a robot means that nothing about it changed.
    if (!Number.isNaN(age)) words = say(online && stale && isLive() ? "unchanged" : "ago", { age: length(age) });
    text(link, `${online ? "●" : "✕"} ${word("link", robot.link)} · ${words}`);
  }

  #order(node, order) {
    const { say, word } = this.#words();
    const age = this.#age(order.timestamp);
    const how = urgency(age);
    const table = this.#topics.tables.get(order.table_id);
    const [head, items, note] = node.children;
    const [where, status, clock, sign] = head.children;
    attribute(node, "data-order", order.id);
    attribute(node, "class", how);
    attribute(node, "data-age", how);
    text(where, table ? `${say("table")} ${table.table_number}` : say("unknownTable"));
    text(status, `${order.priority > 0 ? `▲ ${say("priority")} · ` : ""}${word("order", order.status)}`);
    text(clock, timer(age));
    text(sign, { fresh: `● ${say("onTime")}`, slow: `▲ ${say("slow")}`, late: `■ ${say("late")}` }[how]);
    const lines = (order.items ?? []).map((item) => `${item.quantity}× ${item.name}${item.note ? ` (${item.note})` : ""}`);
    text(items, lines.join(" · "));
    const robot = this.#topics.robots.get(order.robot_id);
    text(note, [order.note, robot && `${say("robot")} ${robot.name || robot.robot_id}`].filter(Boolean).join(" · "));
    note.hidden = !note.lastText;
  }

  #event(node, event) {
    const { say, word } = this.#words();
    const [head, what, state] = node.children;
    const [severity, type, where, age] = head.children;
    attribute(node, "data-event", event.id);
    attribute(node, "data-severity", event.severity);
    attribute(node, "class", event.acknowledged_at ? "done" : "");
    text(severity, `${SEVERITY_SIGNS[event.severity] ?? "·"} ${word("severity", event.severity)}`);
    text(type, word("event", event.type));
    text(where, this.#related(event));
    text(age, this.#ago(event.timestamp));
    text(what, event.description);
    what.hidden = !event.description;
    text(state, event.acknowledged_at ? `✓ ${say("acknowledged", { who: event.acknowledged_by ?? "–" })}` : "");
    state.hidden = !event.acknowledged_at;
  }

  #related({ related_entity_type: type, related_entity_id: id }) {
    const { say } = this.#words();
    const kind = String(type ?? "").toLowerCase();
    if (kind.startsWith("table")) {
      const table = this.#topics.tables.get(id);
      return table ? `${say("table")} ${table.table_number}` : "";
    }
    const robot = kind.startsWith("robot") ? this.#topics.robots.get(id) : null;
    return robot ? robot.name || robot.robot_id : "";
  }

  #log(node, line) {
    const { word } = this.#words();
    const [head, message] = node.children;
    const [level, source, age] = head.children;
    attribute(node, "data-log", line.id);
    attribute(node, "data-severity", line.level);
    text(level, `${SEVERITY_SIGNS[line.level] ?? "·"} ${word("severity", line.level)}`);
    text(source, line.source ?? "");
    text(age, this.#ago(line.timestamp));
    text(message, line.message);
  }

  #stock(node, item) {
    const { word } = this.#words();
    const [name, amount, status] = node.children;
    const number = this.#language.number;
    attribute(node, "data-stock", item.status);
    text(name, item.name);
    text(amount, `${number.format(item.count)} / ${number.format(item.max_count)}`);
    text(status, `${item.status === "OUT_OF_STOCK" ? "✖" : "▲"} ${word("stock", item.status)}`);
  }

  #words() {
    const language = this.#language;
    return {
      say: (key, values) => language.say(key, values),
      word: (kind, code) => language.word(kind, code),
      age: (ms) => language.age(ms),
    };
  }
}

function newRobotRow() {
  const meter = element("meter");
  Object.assign(meter, { min: 0, max: 100, low: 20, optimum: 100 });
  meter.setAttribute("aria-hidden", "true");
  return element(
    "li",
    "",
    element("b", "title"),
    element("span", "status"),
    element("span", "battery", meter, element("span")),
    element("span", "link"),
  );
}

function newOrderRow() {
  const head = element("div", "head", element("b", "title"), element("span", "status"), element("b", "timer"), element("span", "sign"));
  return element("li", "", head, element("p", "items"), element("p", "muted"));
}

function newEventRow() {
  const head = element("div", "head", element("b", "severity"), element("b", "title"), element("span"), element("span", "ago muted"));
  return element("li", "", head, element("p"), element("p", "muted"));
}

function newLogRow() {
  const head = element("div", "head", element("b", "severity"), element("span"), element("span", "ago muted"));
  return element("li", "", head, element("p"));
}

function newStockRow() {
  return element("li", "", element("b", "title"), element("span", "amount"), element("span", "severity"));
}
