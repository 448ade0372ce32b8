/** What colleagues write to each other: those that came, to be marked as read, and those that were sent. */

import { problem } from "./account.js";
import { attribute, element, keyed, text } from "./dom.js";

const ROLES = ["kitchen", "staff", "manager", "technician", "display", "admin"];
const SIGNS = { TEXT: "✉", ALERT: "‼", VOICE: "♪", TASK: "☑" };
const KEPT = 20;

const byId = (id) => document.getElementById(id);

export class Messages {
  #language;
  #clock;
  #session = null;
  #sent = []; // {id, recipient, message, readBy, error?}
  #problem = null;
  #drawInbox;
  #drawSent;

  constructor({ language, clock }) {
    this.#language = language;
    this.#clock = clock;
    this.#drawInbox = keyed(byId("inbox").firstElementChild, {
      key: (message) => message.id,
      create: ({ id }) => this.#newNote(id),
      update: (node, message) => this.#updateNote(node, message),
    });
    this.#drawSent = keyed(byId("sent"), {
      key: (message) => message.id,
      create: () => element("li", "", element("p"), element("p", "muted")),
      update: (node, { recipient, message, readBy }) => {
        text(node.firstChild, `→ ${this.#address(recipient)}: ${message}`);
        text(node.lastChild, readBy.length ? `✓ ${language.say("readBy", { who: readBy.join(", ") })}` : language.say("notRead"));
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
    this.#problem = null;
    this.paint();
  }

  /** Somebody read a message of ours, or we read one in another window. */
  wasRead({ messageId, userId }) {
    const readBy = this.#sent.find((message) => message.id === messageId)?.readBy;
    if (readBy && !readBy.includes(userId)) readBy.push(userId);
    this.paint();
  }

  paint() {
    const unread = [...(this.#session?.unread.values() ?? [])].sort((a, b) => a.id - b.id);
    attribute(byId("inbox"), "hidden", unread.length ? null : "");
    this.#drawInbox(unread);
    this.#drawSent(this.#sent);
    const { recipient, user } = byId("send").elements;
    for (const option of recipient.options) text(option, this.#address(option.value));
    attribute(byId("to-user"), "hidden", recipient.value ? "" : null);
    user.required = !recipient.value;
    text(byId("send").querySelector(".problem"), this.#problem ? `✕ ${problem(this.#language, this.#problem, "send")}` : "");
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
      const { id } = await this.#session.sendMessage(to, words, { type: alert.checked ? "ALERT" : "TEXT" });
      this.#sent = [{ id, recipient: to, message: words, readBy: [] }, ...this.#sent].slice(0, KEPT);
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

  #updateNote(node, { id, sender, recipient, message, messageType, audioUrl, timestamp }) {
    const language = this.#language;
    const [body, button] = node.children;
    const [head, words, link] = body.children;
    const [sign, from, when] = head.children;
    attribute(node, "data-message", id);
    attribute(node, "data-kind", messageType);
    text(sign, SIGNS[messageType] ?? SIGNS.TEXT);
    text(from, recipient.startsWith("role:") ? `${sender} → ${this.#address(recipient)}` : sender);
    text(when, language.say("ago", { age: language.age(this.#clock.now() - Date.parse(timestamp)) }));
    text(words, message);
    attribute(link, "hidden", audioUrl ? null : "");
    attribute(link, "href", /^(https?:\/)?\//.test(audioUrl ?? "") ? audioUrl : null);
    text(link, language.say("listen"));
    text(button, language.say("markRead"));
  }
}
