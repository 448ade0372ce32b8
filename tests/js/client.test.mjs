// The client's reconnecting, its jitter and its resuming, with a socket that is no socket and a clock that is moved by hand.
import assert from "node:assert/strict";
import { afterEach, beforeEach, test } from "node:test";

import { follow } from "../../robodyne_rt/web/pages/robodyne-client.js";
import { answer, asked, begin, end, look, newest, pass, settle, sockets } from "./fakes.mjs";

let client = null;

beforeEach(begin);

afterEach(() => {
  client?.close();
  end();
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

test("after ten failures in a row it gives up and says so, and tries again when it is told to", async () => {
  await start();
  for (let failure = 0; failure < 10; failure += 1) {
    newest().fails();
    await pass(30000);
  }
  assert.equal(client.state, "reconnecting");
  newest().fails();
  assert.equal(client.state, "stopped");
  assert.equal(client.detail.reason, "gave_up");
  client.retry();
  await settle();
  assert.equal(sockets.length, 12);
  newest().fails();
  await pass(999);
  assert.equal(sockets.length, 12);
  await pass(1);
  assert.equal(sockets.length, 13, "the first pause is short again");
});

/** Hold a link for as long as this. */
const hold = async (ms) => {
  newest().open();
  for (let left = ms; left > 0; left -= 1000) {
    await pass(Math.min(left, 1000));
    newest().hears({ type: "pong", data: {} });
  }
  newest().fails();
};

for (const [ms, seconds] of [[9999, 8], [10000, 1]]) {
  test(`after three failures and a link of ${ms} ms the pause is ${seconds} s`, async () => {
    await start();
    for (let failure = 0; failure < 3; failure += 1) {
      newest().fails();
      await pass(30000);
    }
    await hold(ms);
    await pass(seconds * 1000 - 1);
    assert.equal(sockets.length, 4);
    await pass(1);
    assert.equal(sockets.length, 5);
  });
}

test("failures before a link that held are not counted for giving up", async () => {
  await start({ tries: 2 });
  for (let round = 0; round < 3; round += 1) {
    newest().fails();
    await pass(30000);
    await hold(10000);
    await pass(30000);
  }
  assert.equal(client.state, "reconnecting");
});

test("an attempt that does not open is given up after five seconds", async () => {
  await start();
  await pass(4999);
  assert.equal(client.state, "connecting");
  await pass(1);
  assert.equal(client.state, "reconnecting");
  assert.equal(client.detail.reason, "no_answer");
});

test("a ping goes out at once and each 1.1 seconds", async () => {
  await start();
  newest().open();
  assert.equal(newest().heard("ping").length, 1);
  await pass(1099);
  assert.equal(newest().heard("ping").length, 1);
  await pass(1);
  assert.equal(newest().heard("ping").length, 2);
  newest().hears({ type: "pong", data: { sent: performance.now() - 30 } });
  assert.equal(client.roundTrip, 30);
  newest().hears({ type: "ping", data: { timestamp: 5000 } });
  assert.deepEqual(newest().heard("pong"), [{ type: "pong", data: { timestamp: 5000 } }]);
  assert.equal(client.clock.now(), 5000015);
});

test("what an older link brings is not heard", async () => {
  await start();
  const [old] = sockets;
  old.open();
  old.fails();
  await pass(1000);
  newest().open();
  old.hears(SNAPSHOT);
  old.fails(1008, "forbidden");
  assert.equal(client.offset, null);
  assert.equal(client.state, "reconnecting");
});

// -- positions --------------------------------------------------------------------------------------------------------

const SNAPSHOT = { type: "update", topic: "robots", snapshot: true, epoch: "e1", prev: 0, offset: 7, data: [{ id: 1 }] };

test("an update after a gap is not laid over the old state: it comes back with its position", async () => {
  await start();
  newest().open();
  newest().hears(SNAPSHOT);
  newest().hears({ type: "update", topic: "robots", epoch: "e1", prev: 8, offset: 9, data: [{ id: 2 }] });
  assert.equal(client.detail.reason, "gap");
  assert.deepEqual([...client.entities.keys()], [1]);
  await pass(1000);
  assert.equal(newest().url.searchParams.get("since"), "7");
});

test("an update that begins before the position is taken, and a snapshot wherever it begins", async () => {
  await start();
  newest().open();
  newest().hears(SNAPSHOT);
  newest().hears({ type: "update", topic: "robots", epoch: "e1", prev: 5, offset: 8, data: [{ id: 2 }] });
  assert.equal(client.offset, 8);
  newest().hears({ ...SNAPSHOT, prev: 20, offset: 30, data: [{ id: 3 }] });
  assert.deepEqual([...client.entities.keys()], [3]);
  assert.equal(client.offset, 30);
});

test("what is live only moves no position", async () => {
  await start();
  newest().open();
  newest().hears(SNAPSHOT);
  newest().hears({ type: "update", topic: "robots", volatile: true, data: [{ id: 1, x: 2 }] });
  assert.equal(client.entities.get(1).x, 2);
  assert.deepEqual([client.offset, client.epoch], [7, "e1"]);
});

// -- refusals ---------------------------------------------------------------------------------------------------------

for (const [code, reason] of [[1003, "binary"], [4001, "token_invalid"], [4004, "unknown_topic"], [1008, "forbidden"], [1008, ""]]) {
  test(`a close with ${code} ${reason} is for good`, async () => {
    await start({ token: () => "t" });
    newest().fails(code, reason);
    assert.deepEqual([client.state, client.detail.reason], ["stopped", reason || String(code)]);
    client.retry();
    await settle();
    await pass(60000);
    assert.equal(sockets.length, 1);
  });
}

for (const [code, reason] of [[1000, ""], [1001, "server_shutdown"], [1008, "topic_full"], [1011, "internal"], [1013, "slow"]]) {
  test(`after a close with ${code} ${reason} it comes back`, async () => {
    await start();
    newest().fails(code, reason);
    await pass(1000);
    assert.equal(sockets.length, 2);
  });
}

// -- tokens and tickets -----------------------------------------------------------------------------------------------

test("a token that is over is asked for again, and another one is kept", async () => {
  let given = 0;
  await start({ token: () => `t${++given}` });
  assert.equal(newest().url.searchParams.get("token"), "t1");
  newest().fails();
  await pass(1000);
  assert.equal(newest().url.searchParams.get("token"), "t1");
  newest().fails(4001, "token_expired");
  await pass(2000);
  assert.equal(newest().url.searchParams.get("token"), "t2");
});

test("a token that is given as text cannot be renewed", async () => {
  await start({ token: "t" });
  newest().fails(4001, "token_expired");
  assert.equal(client.state, "stopped");
});

test("a ticket is asked for before each connection, and takes the place of a token", async () => {
  let given = 0;
  await start({ ticket: async () => `k${++given}`, token: "t" });
  newest().fails(4001, "token_invalid");
  await pass(1000);
  assert.deepEqual(sockets.map(({ url }) => url.searchParams.get("ticket")), ["k1", "k2"]);
  assert.equal(newest().url.searchParams.has("token"), false);
});

for (const [expiresIn, seconds] of [[100, 75], [600, 540]]) {
  test(`a token of ${expiresIn} s is renewed on the living link after ${seconds} s`, async () => {
    let given = 0;
    await start({ token: () => ({ accessToken: `t${++given}`, expiresIn }) });
    newest().open();
    for (let second = 1; second <= seconds; second += 1) {
      assert.deepEqual(newest().heard("token"), [], `after ${second} s`);
      await pass(1000);
      newest().hears({ type: "pong", data: {} });
    }
    assert.deepEqual(newest().heard("token"), [{ type: "token", token: "t2", data: { token: "t2" } }]);
    assert.equal(sockets.length, 1);
  });
}

test("what token() throws is tried again like a lost link, but for a refusal", async () => {
  let error = new Error("no network");
  await start({
    token: () => {
      throw error;
    },
  });
  assert.equal(client.state, "reconnecting");
  error = Object.assign(new Error("no"), { status: 401, code: "TOKEN_INVALID" });
  await pass(1000);
  assert.deepEqual([client.state, client.detail.reason], ["stopped", "token_invalid"]);
});

test("a renewed token is waited for a minute", async () => {
  const waiting = [];
  await start({ token: () => new Promise((give) => waiting.push(give)) });
  waiting[0]({ accessToken: "t1", expiresIn: 100 });
  await settle();
  newest().open();
  const seconds = async (count) => {
    for (let second = 0; second < count; second += 1) {
      await pass(1000);
      newest().hears({ type: "pong", data: {} });
    }
  };
  await seconds(75 + 59);
  waiting[1]({ accessToken: "t2", expiresIn: 100 });
  await settle();
  assert.equal(newest().heard("token").length, 1);
  await seconds(75 + 60);
  waiting[2]({ accessToken: "t3" });
  await settle();
  assert.equal(newest().heard("token").length, 1, "too late");
});

// -- polling ----------------------------------------------------------------------------------------------------------

const POLLED = { type: "update", topic: "robots", snapshot: true, epoch: "e1", prev: 0, offset: 7, data: [{ id: 1 }] };

/** Fail this often without ever opening. */
const failToOpen = async (times) => {
  for (let failure = 0; failure < times; failure += 1) {
    newest().fails();
    if (failure < times - 1) await pass(30000);
  }
  await settle();
};

test("after three links that never opened it polls each two seconds from its position, and never gives up while that works", async () => {
  answer("/api/robots", POLLED);
  await start();
  await failToOpen(2);
  assert.deepEqual([client.state, asked.length], ["reconnecting", 0]);
  await pass(30000);
  newest().fails();
  await settle();
  assert.deepEqual([client.state, asked.length, client.offset], ["polling", 1, 7]);
  answer("/api/robots", { ...POLLED, snapshot: false, recovered: true, prev: 7, offset: 9, data: [{ id: 2 }] });
  await pass(1999);
  assert.equal(asked.length, 1);
  await pass(1);
  assert.deepEqual([asked.length, asked[1].query], [2, { since: "7", epoch: "e1" }]);
  assert.deepEqual([...client.entities.keys()], [1, 2]);
  for (let failure = 0; failure < 20; failure += 1) {
    await pass(30000);
    newest().fails();
  }
  assert.equal(client.state, "polling");
});

test("a link that opens ends the polling, and links that opened before they broke start none", async () => {
  answer("/api/robots", POLLED);
  await start();
  await failToOpen(3);
  await pass(30000);
  newest().open();
  newest().hears(SNAPSHOT);
  assert.equal(client.state, "connected");
  const before = asked.filter(({ path }) => path === "/api/robots").length;
  await pass(2000);
  for (let failure = 0; failure < 3; failure += 1) {
    newest().fails();
    await pass(30000);
    newest().open();
  }
  assert.equal(asked.filter(({ path }) => path === "/api/robots").length, before);
});

for (const [status, code, reason] of [[403, "FORBIDDEN", "forbidden"], [404, "NOT_FOUND", "unknown_topic"], [401, "TOKEN_INVALID", "token_invalid"]]) {
  test(`a poll that is answered with ${status} ends it as ${reason}`, async () => {
    answer("/api/robots", { code }, status);
    await start();
    await failToOpen(3);
    assert.deepEqual([client.state, client.detail.reason], ["stopped", reason]);
  });
}

test("a poll without an answer is given up after 2.7 seconds", async () => {
  answer("/api/robots", POLLED);
  await start();
  await failToOpen(3);
  assert.equal(client.state, "polling");
  answer("/api/robots", "never");
  await pass(2000);
  await pass(2699);
  assert.equal(client.state, "polling");
  await pass(1);
  assert.equal(client.state, "reconnecting");
});

// -- pages that are not seen ------------------------------------------------------------------------------------------

test("a page that is not seen pauses its link, and comes back at once when it is seen", async () => {
  await start();
  newest().open();
  look(false);
  assert.equal(newest().heard("pause").length, 1);
  await pass(60000);
  assert.equal(newest().heard("ping").length, 1, "none while nobody looks");
  look(true);
  assert.equal(newest().heard("resume").length, 1);
  look(false);
  newest().fails();
  await pass(60000);
  client.retry();
  await settle();
  assert.equal(sockets.length, 1, "no attempt while nobody looks");
  look(true);
  await settle();
  assert.equal(sockets.length, 2);
});

test("a page that stalled does not take its own sleep for the server's silence", async () => {
  await start();
  newest().open();
  const awake = performance.now();
  performance.now.mock.mockImplementation(() => awake + 60000);
  await pass(2700);
  assert.notEqual(client.state, "reconnecting");
  await pass(1000);
  assert.equal(client.state, "reconnecting");
});

test("a link that opens while nobody looks is paused", async () => {
  await start();
  look(false);
  newest().open();
  assert.equal(newest().heard("pause").length, 1);
  assert.equal(newest().heard("ping").length, 1);
});

// -- trying at once ---------------------------------------------------------------------------------------------------

test("where the network is back it tries at once, but never beside a living attempt or after its end", async () => {
  let isOnline = null;
  globalThis.addEventListener = (name, take) => (isOnline = name === "online" ? take : isOnline);
  await start();
  delete globalThis.addEventListener;
  isOnline();
  await settle();
  assert.equal(sockets.length, 1, "there is a living attempt");
  newest().fails();
  isOnline();
  await settle();
  assert.equal(sockets.length, 2);
  client.close();
  isOnline();
  await settle();
  assert.equal(sockets.length, 2);
  assert.equal(client.state, "closed");
});

test("what an older attempt was given late does nothing", async () => {
  const waiting = [];
  await start({ ticket: () => new Promise((give, fail) => waiting.push({ give, fail })) });
  await pass(5000); // given up
  await pass(1000);
  waiting[0].give("old");
  await settle();
  assert.equal(sockets.length, 0);
  await pass(5000);
  await pass(2000);
  waiting[1].fail(Object.assign(new Error("no"), { status: 401 }));
  await settle();
  assert.equal(client.state, "reconnecting");
  waiting[2].give("new");
  await settle();
  assert.equal(newest().url.searchParams.get("ticket"), "new");
});

test("a poll that is answered after the link is back does nothing", async () => {
  answer("/api/robots", POLLED);
  await start();
  await failToOpen(3);
  let late = null;
  fetch.mock.mockImplementation(() => new Promise((give) => (late ??= give)));
  await pass(2000);
  await pass(2000); // the third pause is over
  newest().open();
  newest().hears({ ...SNAPSHOT, offset: 20 });
  late(Response.json({ ...POLLED, offset: 9 }));
  await settle();
  assert.equal(client.offset, 20);
});
