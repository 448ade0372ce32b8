// A socket that is no socket, a server whose HTTP answers are handed in, and a clock that is moved by hand.
import { mock } from "node:test";

/** What the client opened, oldest first. */
export let sockets = [];

/** What was asked by HTTP, oldest first: `{method, url, headers, body}`. */
export let asked = [];

let now = 0;
let answers = {};

class FakeSocket extends EventTarget {
  readyState = 0;
  said = [];

  constructor(url) {
    super();
    this.url = new URL(url);
    sockets.push(this);
  }

  send(text) {
    this.said.push(JSON.parse(text));
  }

  /** What was said of one type. */
  heard(type) {
    return this.said.filter((message) => message.type === type);
  }

  close() {
    this.readyState = 3;
  }

  open() {
    this.readyState = 1;
    this.dispatchEvent(new Event("open"));
  }

  hears(message) {
    this.dispatchEvent(Object.assign(new Event("message"), { data: JSON.stringify(message) }));
  }

  fails(code = 1006, reason = "") {
    this.readyState = 3;
    this.dispatchEvent(Object.assign(new Event("close"), { code, reason }));
  }
}

/** Let what is awaited come to its end. */
export const settle = async () => {
  for (let turn = 0; turn < 20; turn += 1) await Promise.resolve();
};

/** Move the clock, and let what is due happen. */
export const pass = async (ms) => {
  now += ms;
  mock.timers.tick(ms);
  await settle();
};

export const newest = () => sockets.at(-1);

/** Let the server answer a path from now on: with a status and JSON, by default 200. */
export const answer = (path, body, status = 200) => {
  answers[path] = { body, status };
};

/** A page that is seen, until `look(false)`. */
export const look = (isSeen) => {
  globalThis.document.hidden = !isSeen;
  globalThis.document.dispatchEvent(new Event("visibilitychange"));
};

/** Begin with nothing; a path without an answer is not reached. */
export const begin = () => {
  [sockets, asked, now, answers] = [[], [], 1000, {}];
  mock.timers.enable({ apis: ["setTimeout", "setInterval"] });
  mock.method(performance, "now", () => now);
  mock.method(globalThis, "fetch", async (url, { method = "GET", headers, body, signal } = {}) => {
    const { pathname, searchParams } = new URL(url);
    asked.push({ method, path: pathname, query: Object.fromEntries(searchParams), headers, body: body && JSON.parse(body) });
    const known = answers[pathname];
    if (known?.body === "never") await new Promise((_, fail) => signal.addEventListener("abort", () => fail(signal.reason)));
    if (!known) throw new TypeError("nobody answers");
    return new Response(JSON.stringify(known.body), { status: known.status });
  });
  globalThis.WebSocket = FakeSocket;
  globalThis.document = Object.assign(new EventTarget(), { hidden: false });
};

export const end = () => {
  mock.timers.reset();
  mock.restoreAll();
  delete globalThis.document;
};
