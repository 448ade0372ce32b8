/** Types of robodyne-client.js; docs/client-javascript.md explains it. */

import type { Rows } from "./rows.d.ts";

export {}; // what is not exported here is not importable

export type State = "connecting" | "connected" | "polling" | "reconnecting" | "stopped" | "closed";
/** Their rows stand in rows.d.ts, made from the server's own models: `Rows["robots"]`. */
export type Topic = keyof Rows;
export type EntityId = number | string;
export type Entity = { id: EntityId } & Record<string, any>;

/** Why something is not connected: a close code, and a fixed word. */
export interface Detail {
  code?: number;
  reason?: string;
}

/** What a change was made of. */
export interface Info {
  /** All was replaced. */
  snapshot: boolean;
  /** What was missed. */
  recovered: boolean;
  /** Live, not stored yet. */
  volatile: boolean;
  changed: EntityId[];
  removed: EntityId[];
}

export interface TopicOptions {
  onChange?(entities: Map<EntityId, Entity>, info: Info): void;
  onState?(state: State, detail: Detail): void;
  /** Least seconds between two updates. */
  interval?: number;
}

/** A token, or the answer of `/api/auth/login` and `/api/auth/refresh` as it is. */
export type Token = string | { accessToken: string; expiresIn?: number };

export interface LinkOptions {
  /** Origin of the server; the page's own by default. */
  url?: string;
  /** A function is asked again before the token is over (`expiresIn`), and when the server says that it is. */
  token?: string | (() => Token | null | Promise<Token | null>);
  /** A one-time ticket instead; a function is asked before each connection. */
  ticket?: string | (() => string | Promise<string>);
  /** Attempts in a row before it stops with `gave_up`; 10 by default, Infinity for screens. */
  tries?: number;
  clock?: ServerClock;
  /** Jitter, 0 to 1. */
  random?(): number;
}

export class RtError extends Error {
  readonly code: string;
  readonly status?: number;
  readonly requestId?: string;
  /** Seconds. */
  readonly retryAfter?: number;
  readonly remaining?: number;
  readonly reason?: string;
  constructor(code: string, message?: string, details?: object);
}

export class ServerClock {
  /** Server time in epoch ms; at first this device's own. */
  now(): number;
  /** How far this device is ahead of the server, in ms; null while unknown. */
  readonly deviceAhead: number | null;
  told(timestamp_s: number, latency_ms?: number): void;
  guess(url: string | URL): Promise<void>;
}

export interface CallOptions {
  url?: string;
  token?: string;
  headers?: Record<string, string>;
  signal?: AbortSignal;
}

/** Send one HTTP request, JSON both ways; return its answer or throw an RtError. */
export function call(method: string, path: string, body?: unknown, options?: CallOptions): Promise<any>;

/** What a link and what a topic show; for reading. */
interface Watched {
  readonly state: State;
  readonly detail: Detail;
  /** performance.now() of the server's last word. */
  readonly heardAt: number | null;
}

interface TopicState extends Watched {
  readonly topic: Topic;
  /** By id; that of `status` is under "status". */
  readonly entities: Map<EntityId, Entity>;
  readonly offset: number | null;
  readonly epoch: string | null;
}

declare class Link implements Watched {
  readonly state: State;
  readonly detail: Detail;
  readonly heardAt: number | null;
  /** Of the newest ping, ms. */
  readonly roundTrip: number;
  readonly clock: ServerClock;
  /** `call()` with this link's server and token. */
  call(method: string, path: string, body?: unknown, options?: CallOptions): Promise<any>;
  /** Try again now, unless there is a link; also after it gave up. */
  readonly retry: () => void;
  /** End it for good. */
  close(): void;
}

/** One topic on a link of its own. */
export class TopicClient extends Link implements TopicState {
  constructor(topic: Topic, options?: LinkOptions & TopicOptions);
  readonly topic: Topic;
  readonly entities: Map<EntityId, Entity>;
  readonly offset: number | null;
  readonly epoch: string | null;
}

export function follow(topic: Topic, options?: LinkOptions & TopicOptions): TopicClient;

/** One topic of a session. */
export class Subscription implements TopicState {
  private constructor();
  readonly topic: Topic;
  readonly entities: Map<EntityId, Entity>;
  readonly offset: number | null;
  readonly epoch: string | null;
  readonly state: State;
  readonly detail: Detail;
  readonly heardAt: number | null;
  /** Whether the server will not send it; asked for again at each connect. */
  readonly isRefused: boolean;
  close(): void;
}

/** About a question to this client. */
export interface Asked {
  /** The request that it is for. */
  queryId: string;
  /** Seconds to answer. */
  timeout: number;
  /** Aborted when nobody needs the answer any more. */
  signal: AbortSignal;
}

export type DataSource = string | { name: string; description?: string; keywords?: string[] };
type Answer<T> = T | Promise<T>;

export interface StaffMessage {
  id: number;
  sender: string;
  /** What people call the sender, where that is not the id. */
  senderName?: string;
  recipient: string;
  message: string;
  messageType: "TEXT" | "ALERT" | "VOICE" | "TASK";
  audioUrl: string | null;
  websocketSent: boolean;
  timestamp: string;
}

export interface SessionOptions extends LinkOptions {
  /** Names this device in the list of sessions. */
  device?: string;
  onState?(state: State, detail: Detail): void;
  /** The server told who we are and what we may; at each connect. */
  onConnected?(session: Session): void;
  /** The person is asked; without an answer, return undefined. */
  onClarification?(question: string, options: string[], asked: Asked): Answer<string | undefined>;
  /** Which data this app has. */
  onAvailableData?(question: string, asked: Asked): Answer<DataSource[]>;
  /** What this app knows under a name it gave. */
  onApi?(name: string, params: Record<string, any>, asked: Asked): Answer<any>;
  /** Once for each message that is not read yet. */
  onStaffMessage?(message: StaffMessage): void;
  /** Somebody read a message of ours, or its reader (`userId` is us) did so elsewhere. */
  onMessageRead?(receipt: { messageId: number; userId: string; readAt: string }): void;
  /** An error that is about no request and no topic. */
  onError?(error: RtError): void;
  /** Every message of the server, after it was taken. */
  onMessage?(message: any): void;
}

export interface RequestOptions {
  /** Seconds until the promise is rejected with `TIMEOUT`; 300 by default. */
  timeout?: number;
  /** `working`, or `waiting` while an earlier question of the same user waits for its answer. */
  onProgress?(text: string): void;
  /** What may be asked about this request and after it, instead of what the handlers say. */
  capabilities?: ("available_data" | "api" | "clarification")[];
  /** Unique for the user; random by default. */
  requestId?: string;
}

export interface MessageOptions {
  type?: StaffMessage["messageType"];
  audioUrl?: string;
  /** Stored once however often it is sent; random by default. */
  key?: string;
}

export interface Response {
  requestId: string;
  response: string;
  /** How many more may be asked now; missing where that is not told. */
  remaining?: number;
  seq?: number;
}

/** Many topics, questions and answers, messages of colleagues on one link. */
export class Session extends Link {
  constructor(options?: SessionOptions);
  readonly sessionId: string | null;
  readonly userId: string | null;
  readonly roles: string[];
  readonly rights: string[];
  readonly topics: Map<Topic, Subscription>;
  /** Staff messages by id. */
  readonly unread: Map<number, StaffMessage>;
  subscribe(topic: Topic, options?: TopicOptions): Subscription;
  /** The promise is settled once; rejected with an RtError (`RATE_LIMITED`, `TIMEOUT`, `FORBIDDEN`, `CLOSED`, ...). */
  request(message: string, options?: RequestOptions): Promise<Response>;
  sendMessage(recipient: string, message: string, options?: MessageOptions): Promise<StaffMessage & { recipientKnown?: boolean }>;
  markRead(id: number): void;
}

/** An id that nobody else has. */
export function newId(): string;

export function connect(options?: SessionOptions): Session;
