// The client's hand-written types are held against the client, by the compiler that its users have.
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { copyFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";

const here = (path) => fileURLToPath(new URL(path, import.meta.url));
const TSC = here("node_modules/typescript/bin/tsc");

const client = readFileSync(here("../../robodyne_rt/web/pages/robodyne-client.js"), "utf8");
const types = readFileSync(here("../../robodyne_rt/web/pages/robodyne-client.d.ts"), "utf8");

/** What may be said wrongly, in the code or in its types, and what the compiler has to name. */
const WRONG = [
  ["an export that is only promised", types, "export function newId(): string;", "export function newId(): string;\nexport function old(): void;", "old"],
  ["an export that is not told", types, "export function newId(): string;", "", "newId"],
  ["a class that is not exported", types, "export {};", "", "Link"],
  ["a member that is only promised", types, "  markRead(id: number): void;", "  markRead(id: number): void;\n  markAll(): void;", "Session.markAll"],
  ["a member that is not told", types, "  readonly isRefused: boolean;", "", "Subscription.isRefused"],
  ["a method by another name", client, "  markRead(id) {", "  markAsRead(id) {", "Session.mark"],
  ["a field by another name", types, "readonly retryAfter?: number;", "readonly retryAfterS?: number;", "RtError.retryAfter"],
  ["an argument more", types, "markRead(id: number): void;", "markRead(id: number, at?: string): void;", "Session.markRead"],
  ["an argument less", types, "told(timestamp_s: number, latency_ms?: number): void;", "told(timestamp_s: number): void;", "ServerClock.told"],
  ["an argument that must be given", types, "subscribe(topic: Topic, options?: TopicOptions)", "subscribe(topic: Topic, options: TopicOptions)", "Session.subscribe"],
  ["an argument of another type", types, "markRead(id: number): void;", "markRead(id: string): void;", "Session.markRead"],
  ["another argument of a function", types, "call(method: string, path: string, body?", "call(path: string, body?", "call"],
  ["another argument of a class", types, "constructor(topic: Topic, options?: LinkOptions & TopicOptions);", "constructor(options?: LinkOptions & TopicOptions);", "TopicClient"],
  ["another answer", types, "guess(url: string | URL): Promise<void>;", "guess(url: string | URL): Promise<number>;", "ServerClock.guess"],
  ["an answer that is not awaited", types, "guess(url: string | URL): Promise<void>;", "guess(url: string | URL): void;", "ServerClock.guess"],
  ["a field of another type", types, "  readonly roles: string[];", "  readonly roles: Set<string>;", "Session.roles"],
  ["a field that may be null", types, "  readonly userId: string | null;", "  readonly userId: string;", "Session.userId"],
  ["a time that may be unknown", types, "  readonly deviceAhead: number | null;", "  readonly deviceAhead: number;", "ServerClock.deviceAhead"],
  ["an option that is not told", types, "  onProgress?(text: string): void;", "", "onProgress"],
  ["an option of another name", client, "{ timeout = REQUEST_S, onProgress", "{ timeoutS = REQUEST_S, onProgress", "timeoutS"],
  ["an option of a session that is not told", types, "  device?: string;", "", "device"],
];

/** Return what the compiler says about each of `[code, its types]`, "" where they agree; all are compiled at once, in a second. */
function compare(...pairs) {
  const folder = mkdtempSync(join(tmpdir(), "types-"));
  try {
    pairs.forEach(([code, declarations], number) => {
      const place = join(folder, String(number));
      mkdirSync(place);
      writeFileSync(join(place, "actual.js"), code);
      writeFileSync(join(place, "robodyne-client.d.ts"), declarations);
      copyFileSync(here("declarations.ts"), join(place, "declarations.ts"));
      copyFileSync(here("../../robodyne_rt/web/pages/rows.d.ts"), join(place, "rows.d.ts"));
    });
    writeFileSync(join(folder, "tsconfig.json"), JSON.stringify({ extends: here("tsconfig.json"), include: ["*/declarations.ts"] }));
    const { status, stdout, stderr } = spawnSync(process.execPath, [TSC, "--project", folder, "--pretty", "false"], { cwd: folder, encoding: "utf8" });
    assert.ok(stdout || status === 0, stderr);
    const said = stdout.split(/^(?=\d+\/)/m); // an error begins with its file, and may have more lines
    return pairs.map((_, number) => said.filter((error) => error.startsWith(`${number}/`)).join(""));
  } finally {
    rmSync(folder, { recursive: true });
  }
}

const [asItIs, ...wrong] = compare(
  [client, types],
  ...WRONG.map(([, text, was, becomes]) => (text === types ? [client, types.replace(was, becomes)] : [client.replace(was, becomes), types])),
);

test("the types say what the client has", () => assert.equal(asItIs, ""));

WRONG.forEach(([what, text, was, , name], number) => {
  test(`${what} is named`, () => {
    assert.ok(text.includes(was), `"${was}" is gone: choose another`);
    assert.match(wrong[number], new RegExp(name));
  });
});

test("every option that the types promise is read by the client", () => {
  const code = client.replace(/\/\*[^]*?\*\/|\/\/.*/g, "");
  for (const [, , members] of types.matchAll(/^export interface (\w+Options)\b.*?\{\n(.*?)^\}/gms)) {
    for (const [, name] of members.matchAll(/^ {2}(\w+)\?[:(]/gm)) assert.match(code, new RegExp(`\\b${name}\\b`));
  }
});
