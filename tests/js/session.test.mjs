// A session that goes on after a lost link: its topics, its questions, what it is asked, its messages.
import assert from "node:assert/strict";
import { afterEach, beforeEach, test } from "node:test";

import { connect } from "../../robodyne_rt/web/pages/robodyne-client.js";
import { answer, asked, begin, end, newest, pass, settle, sockets } from "./fakes.mjs";

let session = null;

beforeEach(begin);

afterEach(() => {
  session?.close();
  end();
});

const start = async (options = {}) => {
  session = connect({ url: "http://rt.test", random: () => 1, ...options });
  await settle();
};

const CONNECTED = { type: "connected", sessionId: "s1", sessionToken: "secret", userId: "kim", roles: ["staff"], rights: ["query"] };
const SNAPSHOT = { type: "update", topic: "robots", snapshot: true, epoch: "e1", prev: 0, offset: 7, data: [{ id: 1 }] };

/** Open the newest link as the server does; with a pong what waited is over. */
const open = (told = {}) => {
  newest().open();
  newest().hears({ ...CONNECTED, ...told });
  newest().hears({ type: "pong", data: {} });
};

const comeBack = async (told = { resumed: true }) => {
  newest().fails();
  await pass(30000);
  open(told);
};

const respond = (requestId, seq, response = "yes") => newest().hears({ type: "response", requestId, seq, response });

test("a comeback names the session, and which answers came", async () => {
  await start();
  assert.equal(newest().url.searchParams.has("session"), false);
  open();
  for (const [id, seq] of [["a", 1], ["b", 2]]) {
    session.request("?", { requestId: id });
    respond(id, seq);
  }
  respond("of another tab", 9);
  await comeBack();
  assert.equal(newest().url.searchParams.get("session"), "secret");
  assert.equal(newest().url.searchParams.get("answered"), "2");
  await comeBack({ resumed: false });
  await comeBack();
  assert.equal(newest().url.searchParams.get("answered"), "0", "a new session has new numbers");
});

test("each topic is asked for again, from where it stands", async () => {
  await start();
  const robots = session.subscribe("robots");
  assert.deepEqual(newest().heard("subscribe"), []);
  open();
  assert.deepEqual(newest().heard("subscribe"), [{ type: "subscribe", topic: "robots" }]);
  newest().hears(SNAPSHOT);
  assert.equal(robots.state, "connected");
  newest().fails();
  assert.equal(robots.state, "reconnecting");
  await pass(1000);
  open({ resumed: true });
  assert.deepEqual(newest().heard("subscribe"), [{ type: "subscribe", topic: "robots", since: 7, epoch: "e1" }]);
  newest().hears({ type: "update", topic: "robots", epoch: "e1", prev: 7, offset: 8, data: [{ id: 2 }] });
  assert.equal(robots.offset, 7, "of an earlier subscription");
  newest().hears({ type: "update", topic: "robots", recovered: true, epoch: "e1", prev: 7, offset: 9, data: [{ id: 3 }] });
  assert.deepEqual([...robots.entities.keys()], [1, 3]);
});

test("a topic with a gap is asked for again, on the same link", async () => {
  await start();
  const robots = session.subscribe("robots");
  open();
  newest().hears(SNAPSHOT);
  newest().hears({ type: "update", topic: "robots", epoch: "e1", prev: 8, offset: 9, data: [{ id: 2 }] });
  assert.equal(robots.offset, 7);
  assert.deepEqual(newest().heard("subscribe").at(-1), { type: "subscribe", topic: "robots", since: 7, epoch: "e1" });
  assert.equal(sockets.length, 1);
});

test("another history replaces what a topic had", async () => {
  await start();
  const robots = session.subscribe("robots");
  open();
  newest().hears(SNAPSHOT);
  await comeBack({ resumed: false });
  newest().hears({ ...SNAPSHOT, epoch: "e2", offset: 2, data: [{ id: 5 }] });
  assert.deepEqual([[...robots.entities.keys()], robots.epoch, robots.offset], [[5], "e2", 2]);
});

test("a full topic is asked for again after five seconds, a forbidden one at the next connect", async () => {
  await start();
  const robots = session.subscribe("robots");
  open();
  newest().hears({ type: "error", topic: "robots", data: { code: "TOPIC_FULL" } });
  assert.deepEqual([robots.state, robots.isRefused], ["reconnecting", false]);
  for (let step = 0; step < 2; step += 1) {
    await pass(2499);
    newest().hears({ type: "pong", data: {} });
  }
  assert.equal(newest().heard("subscribe").length, 1);
  await pass(2);
  assert.equal(newest().heard("subscribe").length, 2);
  newest().hears({ type: "error", topic: "robots", data: { code: "FORBIDDEN" } });
  assert.deepEqual([robots.state, robots.isRefused], ["stopped", true]);
  newest().hears({ type: "error", topic: "robots", data: { code: "TOPIC_FULL" } });
  newest().hears({ ...SNAPSHOT });
  await pass(2500);
  newest().hears({ type: "pong", data: {} });
  await pass(2500);
  assert.equal(newest().heard("subscribe").length, 2, "it is there: nothing is asked for");
  await comeBack();
  assert.equal(newest().heard("subscribe").length, 1);
});

test("a question waits for a link, and is asked again after the first pong of the next", async () => {
  await start();
  const response = session.request("where?", { requestId: "q" });
  newest().open();
  newest().hears(CONNECTED);
  assert.deepEqual(newest().heard("query"), [], "its answer may be on its way");
  newest().hears({ type: "pong", data: {} });
  assert.deepEqual(newest().heard("query"), [{ type: "query", requestId: "q", message: "where?", again: true }]);
  const other = session.request("who?", { requestId: "r" });
  assert.deepEqual(newest().heard("query").at(-1), { type: "query", requestId: "r", message: "who?" });
  newest().fails();
  session.request("when?", { requestId: "s" }).catch(() => null);
  await pass(1000);
  newest().open();
  newest().hears({ ...CONNECTED, resumed: true });
  session.request("why?", { requestId: "t" }).catch(() => null);
  respond("q", 1, "here");
  assert.deepEqual(newest().heard("query"), []);
  newest().hears({ type: "pong", data: {} });
  assert.deepEqual(newest().heard("query").map(({ requestId }) => requestId), ["r", "s", "t"]);
  newest().hears({ type: "pong", data: {} });
  assert.equal(newest().heard("query").length, 3, "once for each link");
  respond("r", 2, "kim");
  assert.equal((await response).response, "here");
  assert.equal((await other).response, "kim");
});

test("open questions end with the session", async () => {
  await start();
  open();
  const lost = session.request("where?");
  newest().fails(1008, "forbidden");
  await assert.rejects(lost, { code: "CLOSED", reason: "forbidden" });
  await assert.rejects(session.request("where?"), { code: "CLOSED" });
});

for (const [timeout, seconds] of [[2, 2], [undefined, 300]]) {
  test(`a question with a timeout of ${timeout} ends after ${seconds} s without an answer`, async () => {
    await start();
    const late = session.request("where?", { timeout });
    let isOver = false;
    late.catch(() => (isOver = true));
    await pass(seconds * 1000 - 1);
    assert.equal(isOver, false);
    await pass(1);
    await assert.rejects(late, { code: "TIMEOUT" });
  });
}

test("a question that would cost the connection is not sent: 64 KiB of UTF-8, all counted", async () => {
  await start();
  open();
  const frame = { type: "query", requestId: "q", message: "" };
  const most = 65536 - JSON.stringify(frame).length;
  await assert.rejects(session.request("늦".repeat(most / 3 + 1), { requestId: "q" }), { code: "TOO_LARGE" });
  await assert.rejects(session.request("x".repeat(most + 1), { requestId: "q" }), { code: "TOO_LARGE" });
  assert.deepEqual(newest().heard("query"), []);
  const fits = session.request("x".repeat(most), { requestId: "q" });
  assert.equal(newest().heard("query").length, 1);
  respond("q", 1);
  await fits;
});

test("who was asked before the link broke is not asked twice, and what they answered is said again", async () => {
  const questions = [];
  await start({ onClarification: (question) => new Promise((reply) => questions.push({ question, reply })) });
  assert.equal(newest().url.searchParams.get("capabilities"), "clarification");
  const ask = (requestId) =>
    newest().hears({ type: "clarification_request", requestId, queryId: "q", question: "which?", options: ["a"], timeout: 60 });
  open();
  ask("c1");
  await comeBack();
  ask("c2");
  questions[0].reply("a");
  await settle();
  assert.deepEqual(newest().heard("human_response"), [{ type: "human_response", requestId: "c2", response: "a" }]);
  await comeBack();
  ask("c3");
  assert.deepEqual(newest().heard("human_response"), [{ type: "human_response", requestId: "c3", response: "a" }]);
  assert.equal(questions.length, 1);
  ask("c4"); // on the same link: the same words are another question
  assert.equal(questions.length, 2);
});

test("a message that was read without a link is marked as soon as it is told again", async () => {
  const told = [];
  await start({ onStaffMessage: ({ id }) => told.push(id) });
  open();
  newest().hears({ type: "staff_message", id: 4 });
  newest().hears({ type: "staff_message", id: 4 });
  assert.deepEqual(told, [4]);
  newest().fails();
  session.markRead(4);
  await pass(1000);
  open({ resumed: true });
  newest().hears({ type: "staff_message", id: 4 });
  assert.deepEqual(newest().heard("message_read"), [{ type: "message_read", messageId: 4 }]);
  assert.deepEqual(told, [4]);
});

test("a message that its reader read elsewhere is no longer unread, and one that somebody else read is", async () => {
  await start();
  open();
  newest().hears({ type: "staff_message", id: 4 });
  newest().hears({ type: "message_read", messageId: 4, userId: "lee" });
  assert.deepEqual([...session.unread.keys()], [4]);
  newest().hears({ type: "message_read", messageId: 4, userId: "kim" });
  assert.equal(session.unread.size, 0);
});

test("a message is sent again under the same key while nobody answers, three times in all", async () => {
  await start();
  const failed = assert.rejects(session.sendMessage("kim", "hello"), { code: "NO_ANSWER" });
  await settle();
  for (const [seconds, times] of [[1, 2], [2, 3], [4, 3]]) {
    await pass(seconds * 1000 - 1);
    assert.equal(asked.length, times - (seconds < 4 ? 1 : 0), `before ${seconds} s`);
    await pass(1);
    assert.equal(asked.length, times, `after ${seconds} s`);
  }
  await failed;
  assert.equal(new Set(asked.map(({ headers }) => headers["Idempotency-Key"])).size, 1);
});

test("a message that is refused is not sent again", async () => {
  answer("/api/messages", { code: "FORBIDDEN", detail: "no" }, 403);
  await start();
  await assert.rejects(session.sendMessage("kim", "hello"), { code: "FORBIDDEN", status: 403 });
  assert.equal(asked.length, 1);
});
