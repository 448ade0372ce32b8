/**
 * Who is in front of the page: logging in and out, pairing this screen, letting another screen in.
 *
 * The login itself is a cookie that no script can read; here are only its forms.
 */

import { attribute, byId, first, text } from "./dom.js";
import { call } from "./robodyne-client.js";

const LOOK_MS = 2000;

/** Return what went wrong, in the words of the page; some errors mean something of their own in one `place`. */
export function problem(language, { code, message, retryAfter = 1 }, place = "") {
  if (code === "RATE_LIMITED") return language.say("waitSeconds", { n: Math.ceil(retryAfter) });
  const key = [`${place}.${code}`, code].find((known) => language.knows(known));
  return key ? language.say(key) : message;
}

export class Account {
  #language;
  #onChange;
  /** @type {{ code: string, until: number } | null} */
  #pairing = null; // while a code is shown
  #problems = new Map(); // form -> error
  #done = "";
  #me = null;
  #reason = ""; // why they were logged out

  /**
   * @param {object} parts
   * @param {import("./i18n.js").Language} parts.language
   * @param {() => void} parts.onChange called when somebody else is in front of the page
   * @param {() => void} parts.onLogOut called before
   */
  constructor({ language, onChange, onLogOut }) {
    this.#language = language;
    this.#onChange = onChange;
    this.#submit(byId("login"), async ({ user, password }) => {
      await call("POST", "/api/auth/login", { user: user.value.trim(), password: password.value, cookie: true });
      onChange();
    });
    this.#submit(byId("approve"), async ({ code, label }, form) => {
      this.#done = "";
      await call("POST", "/api/pairings/approve", { code: code.value.replace(/\s/g, ""), label: label.value.trim() });
      this.#done = label.value.trim();
      form.reset();
    });
    byId("pair").addEventListener("click", () => this.#pair());
    byId("pair-cancel").addEventListener("click", () => {
      this.#pairing = null;
      this.paint();
      byId("pair").focus();
    });
    byId("look-on").addEventListener("click", onChange);
    byId("log-out").addEventListener("click", async () => {
      onLogOut();
      await call("POST", "/api/auth/logout").catch(() => null); // who is logged in after that, the server knows
      onChange();
    });
  }

  /** Say who it is; `me` as the server tells it. */
  show(me) {
    this.#me = me;
    this.#reason = "";
    this.#pairing = null;
    this.#problems.clear();
    this.#done = "";
    this.paint();
  }

  /** Ask for a login; `mayLook` when there is something to see without one, `reason` why the one before is over. */
  ask(mayLook, reason) {
    this.#reason = reason;
    attribute(byId("look-on"), "hidden", mayLook ? null : "");
    byId("login").elements.password.value = "";
    this.paint();
    byId("login").elements.user.focus();
  }

  paint() {
    const say = (...words) => this.#language.say(...words);
    for (const id of ["login", "pairing", "approve"]) {
      const error = this.#problems.get(id);
      text(byId(id).querySelector(".problem"), error ? `✕ ${problem(this.#language, error, id)}` : "");
    }
    text(byId("thrown-out"), this.#reason && `▲ ${say(this.#reason === "token_expired" ? "loginIsOver" : "loginTakenBack")}`);
    attribute(byId("login"), "hidden", this.#pairing ? "" : null);
    attribute(byId("pairing"), "hidden", this.#pairing ? null : "");
    if (this.#pairing) {
      const { code, until } = this.#pairing;
      text(byId("code"), code ? `${code.slice(0, 3)} ${code.slice(3)}` : "··· ···");
      const rest = this.#language.age(until - performance.now());
      text(byId("code-rest"), code ? say("codeRest", { age: rest }) : "");
    }
    const { user = "", roles = [], rights = [] } = this.#me ?? {};
    const words = roles.map((role) => this.#language.word("role", role)).join(", ");
    text(byId("who"), `${user} (${words || say("noRole")})`);
    const opener = first('[data-opens="account"]');
    text(opener.lastElementChild, user);
    attribute(opener, "title", user);
    attribute(byId("approve"), "hidden", rights.some((right) => right === "*" || right === "administer") ? null : "");
    text(byId("approve").querySelector(".done"), this.#done && `✓ ${say("screenIsIn", { name: this.#done })}`);
  }

  #submit(form, send) {
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      const button = form.querySelector("[type=submit]");
      button.disabled = true;
      this.#problems.delete(form.id);
      try {
        await send(form.elements, form);
      } catch (error) {
        this.#problems.set(form.id, error);
        form.querySelector("[type=password]")?.select();
      }
      button.disabled = false;
      this.paint();
    });
  }

  /** Show a code until somebody approves it; a new one when it is over. */
  async #pair() {
    const pairing = (this.#pairing = { code: "", until: 0 });
    let secret = null;
    this.#problems.delete("pairing");
    this.paint();
    byId("pair-cancel").focus();
    while (pairing === this.#pairing) {
      let pause_ms = LOOK_MS;
      try {
        if (secret === null) {
          const given = await call("POST", "/api/pairings");
          secret = given.pairing;
          Object.assign(pairing, { code: given.code, until: performance.now() + given.expires_in * 1000 });
        } else if ((await call("GET", `/api/pairings/${secret}?cookie=1`)).status === "approved") {
          if (pairing === this.#pairing) this.#onChange();
          return;
        }
        this.#problems.delete("pairing");
      } catch (error) {
        if (error.status === 404) secret = null;
        else this.#problems.set("pairing", error);
        if (error.status === 404) pause_ms = 0;
        if (error.retryAfter) pause_ms = error.retryAfter * 1000;
      }
      if (pairing === this.#pairing) this.paint();
      await new Promise((done) => setTimeout(done, pause_ms));
    }
  }
}
