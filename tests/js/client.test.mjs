// The client's reconnecting, its jitter and its resuming, with a socket that is no socket and a clock that is moved by hand.
import assert from "node:assert/strict";
import { afterEach, beforeEach, mock, test } from "node:test";

import { follow } from "../../robodyne_rt/web/pages/robodyne-client.js";

/** What the client opened, oldest first. */
let sockets = [];
let now = 0;
let client = null;

class FakeSocket extends EventTarget {
  static OPEN = 1;
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
const settle = async () => {
  for (let turn = 0; turn < 10; turn += 1) await Promise.resolve();
};

/** Move the clock, and let what is due happen. */
const pass = async (ms) => {
  now += ms;
  mock.timers.tick(ms);
  await settle();
};

const newest = () => sockets.at(-1);

beforeEach(() => {
  sockets = [];
  now = 1000;
  mock.timers.enable({ apis: ["setTimeout", "setInterval"] });
  mock.method(performance, "now", () => now);
  mock.method(globalThis, "fetch", async () => {
    throw new TypeError("nobody answers");
  });
  globalThis.WebSocket = FakeSocket;
});

afterEach(() => {
  client?.close();
  mock.timers.reset();
  mock.restoreAll();
});

const start = async (options = {}) => {
  client = follow("robots", { url: "http://rt.test", random: () => 1, ...options });
  await settle();
};

test("the pauses between tries double up to thirty seconds", async () => {
  await start();
  for (const seconds of [1, 2, 4, 8, 16, 30, 30]) {
    const before = sockets.length;
    newest().fails();
    await pass(seconds * 1000 - 1);
    assert.equal(sockets.length, before, `a try before ${seconds} s are over`);
    await pass(1);
    assert.equal(sockets.length, before + 1, `no try after ${seconds} s`);
  }
});

test("a pause is at least half of what it may be, by chance", async () => {
  await start({ random: () => 0 });
  for (const seconds of [0.5, 1, 2]) {
    const before = sockets.length;
    newest().fails();
    await pass(seconds * 1000 - 1);
    assert.equal(sockets.length, before);
    await pass(1);
    assert.equal(sockets.length, before + 1);
  }
});

test("a link that held for ten seconds begins with short pauses again, and a shorter one does not", async () => {
  await start();
  newest().fails();
  await pass(1000);
  newest().fails();
  await pass(2000);
  newest().open();
  await pass(2000);
  newest().hears({ type: "pong", data: {} });
  newest().fails();
  const before = sockets.length;
  await pass(3999);
  assert.equal(sockets.length, before);
  await pass(1);
  assert.equal(sockets.length, before + 1);

  newest().open();
  for (let second = 0; second < 10; second += 1) {
    await pass(1000);
    newest().hears({ type: "pong", data: {} });
  }
  newest().fails();
  await pass(1000);
  assert.equal(sockets.length, before + 2);
});

test("a link on which nothing comes is given up after 2.7 seconds", async () => {
  await start();
  newest().open();
  await pass(2600);
  assert.notEqual(client.state, "reconnecting");
  await pass(200);
  assert.equal(client.state, "reconnecting");
});

test("a comeback tells the position, and goes on from there without a snapshot", async () => {
  await start();
  assert.equal(newest().url.searchParams.has("since"), false);
  newest().open();
  newest().hears({ type: "update", topic: "robots", snapshot: true, epoch: "e1", prev: 0, offset: 7, data: [{ id: 1, name: "a" }] });
  newest().hears({ type: "update", topic: "robots", epoch: "e1", prev: 7, offset: 8, data: [{ id: 2, name: "b" }] });
  newest().fails();
  await pass(1000);
  assert.equal(newest().url.searchParams.get("since"), "8");
  assert.equal(newest().url.searchParams.get("epoch"), "e1");
  newest().open();
  newest().hears({ type: "update", topic: "robots", recovered: true, epoch: "e1", prev: 8, offset: 9, data: [], removed: [1] });
  assert.deepEqual([...client.entities.keys()], [2]);
  assert.equal(client.offset, 9);
});

test("another history brings a snapshot, and nothing of the old one stays", async () => {
  await start();
  newest().open();
  newest().hears({ type: "update", topic: "robots", snapshot: true, epoch: "e1", prev: 0, offset: 7, data: [{ id: 1 }] });
  newest().fails();
  await pass(1000);
  newest().open();
  newest().hears({ type: "update", topic: "robots", snapshot: true, epoch: "e2", prev: 0, offset: 3, data: [{ id: 5 }] });
  assert.deepEqual([...client.entities.keys()], [5]);
  assert.equal(client.epoch, "e2");
});

test("a refusal that another try cannot change ends it", async () => {
  await start();
  newest().fails(1008, "forbidden");
  assert.equal(client.state, "stopped");
  await pass(60000);
  assert.equal(sockets.length, 1);
});

test("after ten failures in a row it gives up and says so", async () => {
  await start();
  for (let failure = 0; failure < 11; failure += 1) {
    newest().fails();
    await pass(30000);
  }
  assert.equal(client.state, "stopped");
  assert.equal(client.detail.reason, "gave_up");
});
