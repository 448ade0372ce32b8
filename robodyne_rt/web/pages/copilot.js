/** The conversation with the assistant: questions, answers, and its questions back. */

import { problem } from "./account.js";
import { attribute, byId, element, keyed, text } from "./dom.js";
import { newId } from "./robodyne-client.js";

const KEPT = 100;
const RECALLED = 20; // questions of before
const WAITING = "theirs waiting";
const WINDOW_MS = 60000; // of the limit of questions: then all may be asked again
const STRAY_MS = 1000; // a space so soon after the buttons came was meant for the question box

export class Copilot {
  #language;
  #open;
  /** @type {import("./robodyne-client.js").Session | null} */
  #session = null;
  #entries = []; // {id, kind, words(), requestId?, question?}
  #count = 0;
  #asked = new Set(); // ids of the questions of this conversation
  #isRecalled = false;
  /** @type {{ n: number, until: number } | null} */
  #remaining = null;
  #isTyping = false; // since the last question was sent
  #draw;

  /**
   * @param {object} parts
   * @param {import("./i18n.js").Language} parts.language
   * @param {() => void} parts.open shows the conversation, for something that only a person can answer
   */
  constructor({ language, open }) {
    this.#language = language;
    this.#open = open;
    this.#draw = keyed(byId("talk"), {
      key: (entry) => entry.id,
      create: (entry) => (entry.question ? this.#newQuestion(entry.question) : element("li", "", element("p"))),
      update: (node, entry) => this.#update(node, entry),
    });
    byId("ask").addEventListener("submit", (event) => {
      event.preventDefault();
      const { question } = event.target.elements;
      if (!question.value.trim() || !this.#session) return;
      this.#request(question.value.trim());
      question.value = "";
      this.#isTyping = false;
    });
    this.#box.addEventListener("input", () => (this.#isTyping = true));
  }

  /** Talk over another session from now on; null ends the conversation. */
  use(session) {
    this.#session = session;
    this.#entries = [];
    this.#asked.clear();
    this.#isRecalled = false;
    this.#remaining = null;
    this.#isTyping = false;
    this.paint();
  }

  /** Show what was asked and answered before, once. */
  async recall() {
    const session = this.#session;
    if (!session || this.#isRecalled) return;
    this.#isRecalled = true;
    const told = await session.call("GET", `/api/chat?limit=${RECALLED}`).catch(() => null);
    if (session !== this.#session) return;
    if (!told) return void (this.#isRecalled = false); // at the next opening then
    const earlier = told.messages.filter(({ requestId, status }) => status !== "PENDING" && !this.#asked.has(requestId)).reverse();
    const entries = earlier.flatMap(({ question, response, code }) => [
      { kind: "mine", words: () => question },
      code
        ? { kind: "theirs failed", words: () => `✕ ${problem(this.#language, { code, message: response ?? code }, "ask")}` }
        : { kind: "theirs", words: () => response },
    ]);
    this.#entries.unshift(...entries.map((entry) => ({ id: ++this.#count, ...entry })));
    this.paint();
    this.#scrollDown();
  }

  /** Ask the person: a button for each option, and a line for other words. */
  clarify = (question, options, { queryId, signal }) =>
    new Promise((answered) => {
      const asked = { question, options, queryId, at: performance.now(), answer: null, over: false };
      asked.reply = (words) => {
        if (asked.over || !words.trim()) return;
        asked.over = true;
        asked.answer = words.trim();
        answered(asked.answer);
        this.paint();
        this.#box.focus();
      };
      signal.addEventListener("abort", () => {
        asked.over = true;
        answered(undefined);
        this.paint();
      });
      this.#add({ kind: "theirs", words: () => question, question: asked });
      // Whoever is writing something goes on with it: their next space would press a button.
      if (document.activeElement !== this.#box && document.activeElement?.matches("input, textarea")) return;
      this.#open();
      if (!this.#isTyping && !this.#box.value) byId("talk").querySelector("li:last-child :is(button, input)").focus();
    });

  paint() {
    const asking = this.#entries.filter(({ question }) => question && !question.over).map(({ question }) => question.queryId);
    this.#draw(this.#entries.filter(({ kind, requestId }) => !(kind === WAITING && asking.includes(requestId))));
    attribute(document.querySelector('[data-opens="copilot"]'), "data-asks", asking.length ? "" : null);
    if (this.#remaining && this.#remaining.until <= performance.now()) this.#remaining = null;
    text(byId("remaining"), this.#remaining ? this.#language.say("remaining", { n: this.#remaining.n }) : "");
  }

  get #box() {
    return byId("ask").elements.question;
  }

  #add(entry) {
    this.#entries.push({ id: ++this.#count, ...entry });
    if (this.#entries.length > KEPT) this.#entries.shift();
    this.paint();
    this.#scrollDown();
    return this.#entries.at(-1);
  }

  #scrollDown() {
    byId("talk").scrollTop = byId("talk").scrollHeight;
  }

  async #request(question) {
    const session = this.#session;
    if (!session) return;
    const requestId = newId();
    this.#asked.add(requestId);
    this.#add({ kind: "mine", words: () => question });
    const words = () => this.#language.say(session.state === "connected" ? "searching" : "askedWhenConnected");
    const entry = this.#add({ kind: WAITING, requestId, words });
    const tell = (told) => {
      entry.words = told === "working" ? words : () => (told === "waiting" ? this.#language.say("waitsForAnswer") : told);
      this.paint();
    };
    try {
      const { response, remaining } = await session.request(question, { requestId, onProgress: tell });
      this.#settle(entry, "theirs", () => response, remaining);
    } catch (error) {
      const until = performance.now() + (error.retryAfter ?? 0) * 1000;
      const { code, message } = error;
      const failed = () =>
        error.retryAfter && until <= performance.now()
          ? this.#language.say("askAgain")
          : `✕ ${problem(this.#language, { code, message, retryAfter: left(until) }, "ask")}`;
      this.#settle(entry, "theirs failed", failed, error.remaining, error.retryAfter && until);
    }
  }

  /** The answer takes its place at the end: after what was asked back meanwhile. */
  #settle(entry, kind, words, remaining, until = performance.now() + WINDOW_MS) {
    if (typeof remaining === "number") this.#remaining = { n: remaining, until };
    const place = this.#entries.indexOf(entry);
    if (place >= 0) this.#entries.splice(place, 1);
    else return this.paint(); // of a conversation that is over
    this.#add({ kind, words });
  }

  #update(node, { kind, words, question }) {
    attribute(node, "class", kind);
    text(node.firstChild, words());
    if (!question) return;
    const [, buttons, form, answer] = node.children;
    attribute(buttons, "hidden", question.over ? "" : null);
    attribute(form, "hidden", question.over ? "" : null);
    attribute(answer, "hidden", question.over ? null : "");
    text(answer, question.answer === null ? this.#language.say("noLongerAsked") : `→ ${question.answer}`);
    attribute(form.firstChild, "aria-label", this.#language.say("otherWords"));
    attribute(form.firstChild, "placeholder", this.#language.say("otherWords"));
    text(form.lastChild, this.#language.say("answerIt"));
  }

  #newQuestion(question) {
    const { options, reply } = question;
    const buttons = element("div", "options");
    for (const option of options) {
      const button = element("button", "", option);
      button.type = "button";
      button.addEventListener("click", () => reply(option));
      buttons.append(button);
    }
    // What is typed on a button was meant for the question box, and goes there. An Enter that is still held down answers nothing.
    buttons.addEventListener("keydown", (event) => {
      const { key, repeat, ctrlKey, altKey, metaKey } = event;
      const isTyped = key.length === 1 && !ctrlKey && !altKey && !metaKey;
      if (isTyped && (key !== " " || performance.now() - question.at < STRAY_MS)) this.#box.focus();
      else if (repeat && key === "Enter") event.preventDefault();
    });
    const input = element("input");
    input.maxLength = 4000;
    input.autocomplete = "off";
    const form = element("form", "row", input, element("button"));
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      reply(input.value);
    });
    return element("li", "", element("p"), buttons, form, element("p", "muted"));
  }
}

const left = (until) => Math.max(0, (until - performance.now()) / 1000);
