/** What colleagues write to each other: those that came, to be marked as read, and those that were sent. */

import { problem } from "./account.js";
import { attribute, below, byId, element, keyed, text } from "./dom.js";

const ROLES = ["kitchen", "staff", "manager", "technician", "display", "admin"];
const SIGNS = { TEXT: "✉", ALERT: "‼", VOICE: "♪", TASK: "☑" };
const KEPT = 20;
const INBOX_SHARE = 0.25; // of the screen's height, at most

export class Messages {
  #language;
  #clock;
  /** @type {import("./robodyne-client.js").Session | null} */
  #session = null;
  #sent = []; // {id, recipient, message, readBy, recipientKnown?}, newest first
  #isRecalled = false;
  #problem = null;
  #list;
  #drawInbox;
  #drawSent;
  #fittedWidth = 0;

  /**
   * @param {object} parts
   * @param {import("./i18n.js").Language} parts.language
   * @param {import("./robodyne-client.js").ServerClock} parts.clock
   */
  constructor({ language, clock }) {
    this.#language = language;
    this.#clock = clock;
    this.#list = byId("inbox").querySelector("ul");
    this.#list.addEventListener("scroll", () => this.#paintCount(), { passive: true });
    this.#drawInbox = keyed(this.#list, {
      key: (message) => message.id,
      create: ({ id }) => this.#newNote(id),
      update: (node, message) => this.#updateNote(node, message),
    });
    this.#drawSent = keyed(byId("sent"), {
      key: (message) => message.id,
      create: () => element("li", "", element("p"), element("p", "muted")),
      update: (node, { recipient, message, readBy, recipientKnown }) => {
        const isLost = recipientKnown === false && !readBy.length;
        const state = isLost ? `▲ ${language.say("nobodyOfThisName")}` : language.say("notRead");
        text(node.firstChild, `→ ${this.#address(recipient)}: ${message}`);
        attribute(node.lastChild, "class", isLost ? "warning" : "muted");
        text(node.lastChild, readBy.length ? `✓ ${language.say("readBy", { who: readBy.join(", ") })}` : state);
      },
    });
    const form = byId("send");
    for (const role of [...ROLES, ""]) form.elements.recipient.append(new Option("", role && `role:${role}`));
    form.elements.recipient.addEventListener("change", () => this.paint());
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#send(form);
    });
  }

  /** Read and write over another session from now on; null for nobody. */
  use(session) {
    this.#session = session;
    this.#sent = [];
    this.#isRecalled = false;
    this.#problem = null;
    this.paint();
  }

  /** Show what was sent before, once. */
  async recall() {
    const session = this.#session;
    if (!session || this.#isRecalled) return;
    this.#isRecalled = true;
    const told = await session.call("GET", `/api/messages?limit=${KEPT}`).catch(() => null);
    if (session !== this.#session) return;
    if (!told) return void (this.#isRecalled = false); // at the next opening then
    const known = new Set(this.#sent.map(({ id }) => id));
    const earlier = told.messages.filter(({ id, sender }) => sender === session.userId && !known.has(id));
    this.#sent.push(...earlier.map((message) => ({ ...message, readBy: message.readBy.map(({ userId }) => userId) })));
    this.paint();
  }

  /** Somebody read a message of ours, or we read one in another window. */
  wasRead({ messageId, userId }) {
    const readBy = this.#sent.find((message) => message.id === messageId)?.readBy;
    if (readBy && !readBy.includes(userId)) readBy.push(userId);
    this.paint();
  }

  paint() {
    const unread = [...(this.#session?.unread.values() ?? [])];
    const urgent = unread.filter(({ messageType }) => messageType === "ALERT").sort((a, b) => b.id - a.id);
    const others = unread.filter(({ messageType }) => messageType !== "ALERT").sort((a, b) => a.id - b.id);
    attribute(byId("inbox"), "hidden", unread.length ? null : "");
    this.#drawInbox([...urgent, ...others]);
    if (unread.length) this.#fit();
    this.#drawSent(this.#sent);
    const { recipient, user } = byId("send").elements;
    for (const option of recipient.options) text(option, this.#address(option.value));
    attribute(byId("to-user"), "hidden", recipient.value ? "" : null);
    user.required = !recipient.value;
    text(byId("send").querySelector(".problem"), this.#problem ? `✕ ${problem(this.#language, this.#problem, "send")}` : "");
  }

  /** Let the inbox end below the last row that is wholly seen. */
  #fit() {
    this.#paintCount(); // the heading takes its place first
    const room = innerHeight * INBOX_SHARE - this.#list.offsetTop;
    const ends = [...this.#list.children].map((note) => note.offsetTop + note.offsetHeight);
    const height = Math.max(...ends.filter((end) => end <= room), Math.min(...ends, room));
    this.#list.style.maxHeight = `${height + 1}px`;
    if (this.#fittedWidth !== this.#list.clientWidth) {
      this.#fittedWidth = this.#list.clientWidth;
      // The rows are others now, and browsers snap to where the same note went: the first would be out of sight.
      const toTop = () => (this.#list.scrollTop = 0);
      toTop();
      requestAnimationFrame(() => requestAnimationFrame(toTop));
    }
    this.#paintCount();
  }

  #paintCount() {
    const say = (...words) => this.#language.say(...words);
    const hidden = below(this.#list);
    const count = say("unread", { n: this.#list.children.length });
    text(byId("unread"), hidden ? `${count} · ${say("more", { n: hidden })} ↓` : count);
  }

  #address(recipient) {
    if (!recipient) return this.#language.say("oneUser");
    const role = recipient.startsWith("role:") && recipient.slice(5);
    return role ? this.#language.say("everybodyIn", { role: this.#language.word("role", role) }) : recipient;
  }

  async #send(form) {
    const { recipient, user, message, alert } = form.elements;
    const words = message.value.trim();
    if (!words || !this.#session) return;
    const button = form.querySelector("[type=submit]");
    button.disabled = true;
    this.#problem = null;
    try {
      const to = recipient.value || user.value.trim();
      const stored = await this.#session.sendMessage(to, words, { type: alert.checked ? "ALERT" : "TEXT" });
      this.#sent = [{ ...stored, readBy: [] }, ...this.#sent.filter(({ id }) => id !== stored.id)].slice(0, KEPT);
      message.value = "";
      alert.checked = false;
    } catch (error) {
      this.#problem = error;
    }
    button.disabled = false;
    this.paint();
  }

  #newNote(id) {
    const head = element("div", "head", element("b", "sign"), element("b", "title"), element("span", "muted"));
    const link = element("a");
    link.rel = "noopener";
    link.target = "_blank";
    const button = element("button", "main");
    button.type = "button";
    button.addEventListener("click", () => {
      this.#session?.markRead(id);
      this.paint();
    });
    return element("li", "", element("div", "", head, element("p"), link), button);
  }

  #updateNote(node, { id, sender, senderName = sender, recipient, message, messageType, audioUrl, timestamp }) {
    const language = this.#language;
    const [body, button] = node.children;
    const [head, words, link] = body.children;
    const [sign, from, when] = head.children;
    attribute(node, "data-message", id);
    attribute(node, "data-kind", messageType);
    text(sign, SIGNS[messageType] ?? SIGNS.TEXT);
    text(from, recipient.startsWith("role:") ? `${senderName} → ${language.word("role", recipient.slice(5))}` : senderName);
    text(when, language.say("ago", { age: language.age(this.#clock.now() - Date.parse(timestamp)) }));
    text(words, message);
    attribute(link, "hidden", audioUrl ? null : "");
    attribute(link, "href", /^(https?:\/)?\//.test(audioUrl ?? "") ? audioUrl : null);
    text(link, language.say("listen"));
    text(button, language.say("markRead"));
  }
}
