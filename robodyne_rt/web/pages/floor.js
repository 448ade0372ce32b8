/**
 * The floor plan: tables where they stand, robots where they drive, one drawing in the pixels of its box.
 *
 * Metres go right and up (x, y), as robots count them; a table's x y is its middle; yaw is counter-clockwise from x.
 * Drawn in pixels and not in a view box, so that words keep their size on every screen.
 */

import { attribute, element, keyed, svg, text } from "./dom.js";

export const POSE_FADES_MS = 3000;

const MARGIN_M = 1.2;
const FAR_M = 25; // a pose farther than this from the tables is a fault, not a reason to zoom out
export const LOW_BATTERY = 20;
const RADIUS = 15;
const NAME_LENGTH = 16;
const SIDE_X = RADIUS + 20; // beyond the nose
const LINE = 18; // pixels from one line of words to the next
/** Where a robot's name and state may stand, the usual place first: beside it or below where that would hide a table's number. */
const PLACES = [
  { anchor: "middle", x: 0, name: -RADIUS - 11, word: RADIUS + 23 },
  { anchor: "start", x: SIDE_X, name: 7, word: LINE + 7 },
  { anchor: "end", x: -SIDE_X, name: 7, word: LINE + 7 },
  { anchor: "middle", x: 0, name: RADIUS + 23, word: RADIUS + 23 + LINE },
  { anchor: "middle", x: 0, name: -RADIUS - 11 - LINE, word: -RADIUS - 11 },
];
const CROWDED = 50; // pixels per metre
const WORDS_Y = 17; // below a table
const GUESTS_Y = 35;
const CELL = { width: 150, height: 78 };
const NARROW = 420; // pixels; in a plan so narrow there is room for names and calls only
const LETTER = { narrow: 9.5, wide: 16, height: 17 }; // pixels, about
const DIGIT = { width: 15, height: 24 }; // of a table's number
const LAG = 24; // pixels that what is drawn of a robot that drives may be behind

const isNumber = (value) => typeof value === "number" && Number.isFinite(value);
const placed = (entity) => isNumber(entity.x) && isNumber(entity.y);

function shortName({ name, robot_id: id }) {
  const whole = String(name || id);
  return whole.length > NAME_LENGTH ? `${whole.slice(0, NAME_LENGTH - 1)}…` : whole;
}

/** How a robot's state looks: by kind of work, and always with its word. */
export function mood(status) {
  if (status === "EMERGENCY" || status === "ERROR") return "bad";
  if (status === "MAINTENANCE") return "warn";
  if (status === "CHARGING") return "good";
  return status === "IDLE" ? "calm" : "busy";
}

/** Where words stand, about: `x` and `y` are their middle; with an anchor `x` is where they start or end. */
function place(words, x, y, anchor = "middle") {
  let width = 0;
  for (const letter of words) width += letter > "\u1100" ? LETTER.wide : LETTER.narrow;
  const shift = { start: width / 2, middle: 0, end: -width / 2 }[anchor];
  return { x: x + shift, y, width, height: LETTER.height };
}

const overlap = (a, b) => Math.abs(a.x - b.x) < (a.width + b.width) / 2 && Math.abs(a.y - b.y) < (a.height + b.height) / 2;

/** Where things are: the extent only grows, so that the plan does not breathe with every robot. */
class Extent {
  constructor() {
    this.left = this.bottom = Infinity;
    this.right = this.top = -Infinity;
  }

  get empty() {
    return this.left > this.right;
  }

  include(x, y, halfWidth = 0, halfHeight = 0) {
    this.left = Math.min(this.left, Math.floor(x - halfWidth - MARGIN_M));
    this.right = Math.max(this.right, Math.ceil(x + halfWidth + MARGIN_M));
    this.bottom = Math.min(this.bottom, Math.floor(y - halfHeight - MARGIN_M));
    this.top = Math.max(this.top, Math.ceil(y + halfHeight + MARGIN_M));
  }

  near(x, y) {
    if (this.empty) return Math.abs(x) < 1000 && Math.abs(y) < 1000;
    return x > this.left - FAR_M && x < this.right + FAR_M && y > this.bottom - FAR_M && y < this.top + FAR_M;
  }
}

export class Floor {
  #language;
  #clock;
  #extent = new Extent();
  #view = { scale: 1, x: 0, y: 0, planHeight: 0 };
  #size = { width: 0, height: 0 };
  #drawn = "";
  /** @type {{ kind: string, id: unknown } | null} */
  #selected = null;
  #turns = new Map(); // robot id -> heading on screen in degrees, unwrapped

  /**
   * @param {object} parts
   * @param {HTMLElement} parts.box for the drawing
   * @param {HTMLElement} parts.details for what was selected
   * @param {import("./i18n.js").Language} parts.language
   * @param {import("./robodyne-client.js").ServerClock} parts.clock
   * @param {() => void} parts.changed called when it has to be drawn again
   */
  constructor({ box, details, language, clock, changed }) {
    this.#language = language;
    this.#clock = clock;
    this.empty = element("p", "empty");
    this.hint = element("p", "muted");
    this.grid = svg("path", { class: "grid" });
    const tables = svg("g");
    const robots = svg("g");
    this.root = svg("svg", { role: "group" }, this.grid, tables, robots);
    box.append(this.root, this.empty);
    const select = (kind) => (event) => {
      const id = event.currentTarget.entityId;
      if (event.type === "keydown" && event.key !== "Enter" && event.key !== " ") return;
      if (event.type === "keydown") event.preventDefault();
      this.#selected = { kind, id };
      changed();
    };
    const selectable = (node, id, kind) => {
      node.entityId = id;
      for (const name of ["click", "focus", "keydown"]) node.addEventListener(name, select(kind));
      return node;
    };
    this.drawTables = keyed(tables, {
      key: (item) => item.entity.id,
      create: (item) => selectable(newTable(), item.entity.id, "table"),
      update: (node, item) => this.#updateTable(node, item),
    });
    this.drawRobots = keyed(robots, {
      key: (item) => item.entity.id,
      create: (item) => selectable(newRobot(), item.entity.id, "robot"),
      update: (node, item) => this.#updateRobot(node, item),
    });
    this.facts = element("dl");
    this.title = element("h3");
    this.drawFacts = keyed(this.facts, {
      key: ([name]) => name,
      create: () => element("div", "", element("dt"), element("dd")),
      update: (node, [name, value]) => {
        text(node.firstChild, this.#language.say(name));
        text(node.lastChild, value);
      },
    });
    details.append(this.hint, this.title, this.facts);
    new ResizeObserver(([entry]) => {
      this.#size = { width: Math.floor(entry.contentRect.width), height: Math.floor(entry.contentRect.height) };
      changed();
    }).observe(box);
  }

  /** Draw the newest state. */
  draw(tables, robots) {
    const all = { tables: [...tables.values()], robots: [...robots.values()] };
    all.tables.sort((a, b) => a.table_number - b.table_number);
    this.#measure(all);
    text(this.empty, this.#language.say("noPlan"));
    this.empty.hidden = all.tables.length + all.robots.length > 0;
    // What has no place stands in a grid below the plan: tables first, then robots.
    const waiting = [...all.tables, ...all.robots].filter((entity) => !placed(entity));
    const columns = Math.max(1, Math.floor(this.#size.width / CELL.width));
    const spot = (entity) => {
      if (placed(entity)) return this.#pixels(entity.x, entity.y);
      const index = waiting.indexOf(entity);
      const x = CELL.width * ((index % columns) + 0.5);
      return { x, y: this.#view.planHeight + CELL.height * (Math.floor(index / columns) + 0.45), waiting: true };
    };
    const height = this.#view.planHeight + CELL.height * Math.ceil(waiting.length / columns);
    attribute(this.root, "height", Math.max(height, this.#size.height - 1));
    const standing = all.tables.map((entity) => ({ entity, ...spot(entity) }));
    this.#squeeze(standing);
    this.drawTables(standing);
    const shown = all.robots.map((entity) => ({ entity, ...spot(entity) }));
    this.#placeWords(shown, standing);
    this.drawRobots(shown);
    this.#drawDetails(tables, robots);
  }

  #measure({ tables, robots }) {
    const extent = this.#extent;
    for (const table of tables) if (placed(table)) extent.include(table.x, table.y, table.width / 2 || 0.5, table.height / 2 || 0.5);
    for (const robot of robots) if (placed(robot) && extent.near(robot.x, robot.y)) extent.include(robot.x, robot.y);
    const waiting = [...tables, ...robots].filter((entity) => !placed(entity)).length;
    const { width, height } = this.#size;
    const columns = Math.max(1, Math.floor(width / CELL.width));
    const rest = Math.max(height / 3, height - CELL.height * Math.ceil(waiting / columns));
    if (extent.empty || !width) {
      this.#view = { scale: 1, x: 0, y: 0, planHeight: 0 };
      attribute(this.grid, "d", "");
      return;
    }
    const across = extent.right - extent.left;
    const up = extent.top - extent.bottom;
    const scale = Math.max(8, Math.min(width / across, rest / up, 110));
    const planHeight = Math.max(rest, scale * up);
    const view = { scale, x: (width - scale * across) / 2, y: (planHeight + scale * up) / 2, planHeight };
    const drawn = JSON.stringify([extent, view, width]);
    if (drawn === this.#drawn) return;
    this.#drawn = drawn;
    this.#view = view;
    attribute(this.root, "width", width);
    const lines = [];
    for (let x = extent.left; x <= extent.right; x += 1) {
      lines.push(`M${this.#pixels(x, extent.bottom).x} ${view.y}V${view.y - scale * up}`);
    }
    for (let y = extent.bottom; y <= extent.top; y += 1) {
      lines.push(`M${view.x} ${this.#pixels(extent.left, y).y}h${scale * across}`);
    }
    attribute(this.grid, "d", lines.join(""));
  }

  /** Return where a place in metres is in the drawing; what is far outside stays at its edge. */
  #pixels(x, y) {
    const { left, right, bottom, top } = this.#extent;
    const inside = { x: Math.min(Math.max(x, left), right), y: Math.min(Math.max(y, bottom), top) };
    const outside = inside.x !== x || inside.y !== y;
    const { scale, x: originX, y: originY } = this.#view;
    return { x: originX + (inside.x - left) * scale, y: originY - (inside.y - bottom) * scale, outside };
  }

  /**
   * Note what of a table's words there is room for: its guests have no line of their own where that would be over the table below,
   * or over the edge; its state is left to colour and frame where it would touch the state of a neighbour.
   */
  #squeeze(tables) {
    const bodies = tables.map((table) => ({ table, x: table.x, y: table.y, ...this.#tableSize(table) }));
    for (const [index, table] of tables.entries()) {
      const bottom = table.y + bodies[index].height / 2;
      const line = { x: table.x, y: bottom + GUESTS_Y - 6, width: 3 * LETTER.narrow, height: LETTER.height };
      const isOver = !table.waiting && line.y + LETTER.height / 2 > this.#view.planHeight;
      table.isSqueezed = isOver || bodies.some((body) => body.table !== table && overlap(body, line));
      table.label = place(this.#language.word("table", table.entity.status), table.x, bottom + WORDS_Y - 6);
    }
    for (const table of tables) {
      table.isCramped = !table.waiting && tables.some((other) => other !== table && overlap(other.label, table.label));
    }
  }

  #tableSize({ entity, waiting }) {
    if (waiting) return { width: 64, height: 40 };
    const { scale } = this.#view;
    return { width: Math.max(34, (entity.width || 1) * scale), height: Math.max(30, (entity.height || 1) * scale) };
  }

  /**
   * Note where each robot's name and state stand. No name hides a table's number where there is another place for it. The state is
   * left out where it would be written over a number, a robot or its name; name, colour and sign stay.
   */
  #placeWords(robots, tables) {
    const numbers = tables.map(({ entity, x, y }) => {
      const width = DIGIT.width * String(entity.table_number).length;
      return { x, y, width, height: DIGIT.height };
    });
    const taken = robots.map((robot) => ({ robot, x: robot.x, y: robot.y, width: 2 * RADIUS, height: 2 * RADIUS }));
    const inTrouble = (robot) => mood(robot.entity.status) === "bad" || robot.entity.link !== "ONLINE";
    const first = [...robots].sort((a, b) => Number(inTrouble(b)) - Number(inTrouble(a)));
    const written = new Map();
    for (const robot of first) {
      const remarks = this.#remarks(robot).join(" · ");
      const ways = PLACES.map((at) => ({
        at,
        name: place(shortName(robot.entity), robot.x + at.x, robot.y + at.name - 6, at.anchor),
        word: place(remarks, robot.x + at.x, robot.y + at.word - 6, at.anchor),
      }));
      const near = numbers.filter((number) => Math.abs(number.x - robot.x) < 300 && Math.abs(number.y - robot.y) < 100);
      const hides = (box, by = 0) =>
        near.some((number) => overlap({ ...number, width: number.width + by, height: number.height + by / 2 }, box));
      const meets = (box) => taken.some((other) => other.robot !== robot && overlap(other, box));
      const fits = ({ name }) => name.x - name.width / 2 >= 0 && name.x + name.width / 2 <= this.#size.width;
      const isClear = ({ name, word }, by) => !hides(name, by) && !(inTrouble(robot) && hides(word, by));
      const [usual, ...others] = ways;
      const isUsual = robot.waiting || isClear(usual, LAG);
      const better = isUsual ? [] : [LAG, 0].flatMap((by) => others.filter((way) => fits(way) && isClear(way, by)));
      const way = better.find(({ name }) => !meets(name)) ?? better[0] ?? usual;
      robot.place = way.at;
      written.set(robot, { ...way, hides });
      taken.push({ robot, ...way.name });
    }
    for (const robot of first) {
      const { word, hides } = written.get(robot);
      const isTaken = hides(word) || taken.some((box) => box.robot !== robot && overlap(box, word));
      robot.isHushed = !robot.waiting && (isTaken || this.#size.width < NARROW);
      if (!robot.isHushed) taken.push({ robot, ...word });
    }
  }

  #remarks({ entity, waiting, outside }) {
    const { say, word } = this.#words();
    const battery = isNumber(entity.battery_level) ? Math.round(entity.battery_level) : null;
    const remarks = [entity.link === "ONLINE" ? word("robot", entity.status) : word("link", entity.link)];
    if (battery !== null && battery < LOW_BATTERY) remarks.push(`${battery}%`);
    if (waiting) remarks.push(say("noPosition"));
    if (outside) remarks.push(say("outside"));
    return remarks;
  }

  #updateTable(node, table) {
    const { entity, x, y, waiting, isSqueezed, isCramped } = table;
    const { say, word } = this.#words();
    const { width, height } = this.#tableSize(table);
    const status = word("table", entity.status);
    const guests = entity.customer_count ? `${entity.customer_count}/${entity.max_customer}` : "";
    const isNarrow = !waiting && this.#size.width < NARROW;
    const apart = !waiting && this.#view.scale < CROWDED; // the words of two neighbours would touch
    attribute(node, "transform", `translate(${x.toFixed(1)} ${y.toFixed(1)})`);
    attribute(node, "data-table", entity.table_number);
    attribute(node, "data-status", entity.status);
    attribute(node, "class", this.#class("table", entity));
    attribute(node, "aria-label", `${say("table")} ${entity.table_number}: ${status} ${guests}`);
    const [rect, number, label, below] = node.children;
    attribute(rect, "x", -width / 2);
    attribute(rect, "y", -height / 2);
    attribute(rect, "width", width);
    attribute(rect, "height", height);
    text(number, entity.table_number);
    attribute(label, "y", height / 2 + WORDS_Y);
    const words = (entity.status === "CALLING" ? "! " : "") + status;
    // Who calls is always said. Where there is no room for both, guests say that a table is occupied.
    const isCalling = entity.status === "CALLING";
    const brief = (apart && isSqueezed && entity.status === "OCCUPIED" && guests) || (isCramped && !isCalling ? guests : words);
    const isSaid = !isNarrow || isCalling;
    text(label, isSaid ? (guests && !apart ? `${words} · ${guests}` : brief) : "");
    attribute(below, "y", height / 2 + GUESTS_Y);
    text(below, apart && !isNarrow && !isSqueezed && brief !== guests ? guests : "");
  }

  #updateRobot(node, robot) {
    const { entity, x, y, waiting, isHushed, place: at } = robot;
    const { say } = this.#words();
    const age = this.#clock.now() - Date.parse(entity.last_seen);
    const online = entity.link === "ONLINE";
    const stale = !online || !(age <= POSE_FADES_MS);
    const battery = isNumber(entity.battery_level) ? Math.round(entity.battery_level) : null;
    const low = battery !== null && battery < LOW_BATTERY;
    const name = String(entity.name || entity.robot_id);
    const remarks = this.#remarks(robot);
    node.style.transform = `translate(${x.toFixed(1)}px, ${y.toFixed(1)}px)`;
    attribute(node, "class", this.#class(`robot ${mood(entity.status)}${stale ? " stale" : ""}${low ? " low" : ""}`, entity));
    attribute(node, "data-robot", entity.robot_id);
    attribute(node, "data-x", isNumber(entity.x) ? entity.x.toFixed(2) : "");
    attribute(node, "data-y", isNumber(entity.y) ? entity.y.toFixed(2) : "");
    attribute(node, "data-status", entity.status);
    attribute(node, "data-battery", battery ?? "");
    attribute(node, "data-link", entity.link);
    attribute(node, "aria-label", `${say("robot")} ${name}: ${remarks.join(", ")}, ${say("battery")} ${battery ?? "–"}%`);
    const [figure, title, label] = node.children;
    const [nose, , ring, , , sign] = figure.children;
    nose.style.transform = `rotate(${this.#turn(entity)}deg)`;
    attribute(nose, "visibility", isNumber(entity.yaw) && !waiting ? "visible" : "hidden");
    attribute(ring, "stroke-dasharray", `${battery ?? 0} 100`);
    text(sign, { bad: "!", warn: "!", good: "⚡" }[mood(entity.status)] ?? "");
    for (const [words, height] of [
      [title, at.name],
      [label, at.word],
    ]) {
      words.style.textAnchor = at.anchor;
      attribute(words, "x", at.x);
      attribute(words, "y", height);
    }
    text(title, shortName(entity));
    text(label, isHushed ? "" : remarks.join(" · "));
  }

  /** Return the heading in screen degrees, never the long way round from the last one. */
  #turn({ id, yaw }) {
    const last = this.#turns.get(id) ?? 0;
    if (!isNumber(yaw)) return last;
    const wanted = (-yaw * 180) / Math.PI;
    const turn = last + ((((wanted - last + 180) % 360) + 360) % 360) - 180;
    this.#turns.set(id, turn);
    return turn.toFixed(1);
  }

  #class(name, entity) {
    const kind = name.startsWith("table") ? "table" : "robot";
    return this.#selected?.kind === kind && this.#selected.id === entity.id ? `${name} selected` : name;
  }

  #words() {
    return { say: (key, values) => this.#language.say(key, values), word: (kind, code) => this.#language.word(kind, code) };
  }

  // -- what was selected --

  #drawDetails(tables, robots) {
    const kind = this.#selected?.kind;
    const id = this.#selected?.id;
    const entity = (kind === "table" ? tables : robots).get(id);
    this.hint.hidden = Boolean(entity);
    this.title.hidden = this.facts.hidden = !entity;
    text(this.hint, this.#language.say("selectHint"));
    if (!entity) return;
    const { say, word } = this.#words();
    const at = placed(entity) ? `x ${entity.x.toFixed(2)} · y ${entity.y.toFixed(2)} m` : say("noPosition");
    if (kind === "table") {
      text(this.title, `${say("table")} ${entity.table_number}`);
      this.drawFacts([
        ["status", word("table", entity.status)],
        ["customers", entity.customer_count],
        ["seats", entity.max_customer],
        ["position", at],
      ]);
      return;
    }
    text(this.title, entity.name ? `${entity.name} (${entity.robot_id})` : entity.robot_id);
    const age = this.#clock.now() - Date.parse(entity.last_seen);
    this.drawFacts([
      ["status", word("robot", entity.status)],
      ["link", word("link", entity.link)],
      ["battery", isNumber(entity.battery_level) ? `${Math.round(entity.battery_level)}%` : "–"],
      ["type", entity.type],
      ["position", at],
      ["heading", isNumber(entity.yaw) ? `${Math.round((entity.yaw * 180) / Math.PI)}°` : "–"],
      ["lastSeen", age >= 0 || age < 0 ? say("ago", { age: this.#language.age(age) }) : say("neverSeen")],
      ...(entity.ip_address ? [["address", entity.ip_address]] : []),
    ]);
  }
}

function newTable() {
  return svg(
    "g",
    { tabindex: 0, role: "button" },
    svg("rect", { rx: 7 }),
    svg("text", { class: "number", y: 7 }),
    svg("text", { class: "word" }),
    svg("text", { class: "guests" }),
  );
}

function newRobot() {
  return svg(
    "g",
    { tabindex: 0, role: "button" },
    svg(
      "g",
      { class: "figure" },
      svg("path", { class: "nose", d: `M${RADIUS + 14} 0L${RADIUS + 1} -8V8Z` }),
      svg("circle", { class: "track", r: RADIUS + 3 }),
      svg("circle", { class: "ring", r: RADIUS + 3, pathLength: 100, transform: "rotate(-90)" }),
      svg("circle", { class: "body", r: RADIUS }),
      svg("path", { class: "cross", d: "M-12 -12L12 12M12 -12L-12 12" }),
      svg("text", { class: "sign", y: 6 }),
    ),
    svg("text", { class: "name" }),
    svg("text", { class: "word" }),
  );
}
