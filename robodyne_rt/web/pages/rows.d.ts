/** The rows of topics; made by scripts/contract; do not edit. */

/** Guests who came together. */
export interface Customer {
  id: number;
  count: number;
  table_id: number | null;
  /** UTC, ISO 8601 with Z */
  arrived_at: string;
  left_at: string | null;
}

/** A table of the restaurant, and its place on the plan. */
export interface DiningTable {
  id: number;
  table_number: number;
  status: TableStatus;
  customer_count: number | null;
  max_customer: number | null;
  /** metres */
  x: number | null;
  /** metres */
  y: number | null;
  /** metres */
  width: number | null;
  /** metres */
  height: number | null;
  updated_at: string | null;
}

/** Something that happened. */
export interface Event {
  id: number;
  type: string;
  severity: Severity;
  related_entity_type: string | null;
  related_entity_id: number | null;
  description: string | null;
  data: any;
  /** UTC, ISO 8601 with Z */
  timestamp: string;
  acknowledged_at: string | null;
  acknowledged_by: string | null;
}

/** What is in stock. */
export interface Inventory {
  id: number;
  ingredient_id: number | null;
  name: string;
  count: number;
  max_count: number;
  threshold: number;
  status: string | null;
  updated_at: string | null;
}

export type Link = "ONLINE" | "OFFLINE" | "CONNECTIONBROKEN";

export type LogLevel = "DEBUG" | "INFO" | "WARNING" | "ERROR" | "CRITICAL";

/** An order with its lines, and the number of its table. */
export interface Order {
  id: number;
  table_id: number | null;
  table_number: number | null;
  customer_id: number | null;
  robot_id: number | null;
  status: OrderStatus;
  priority: number;
  note: string | null;
  /** UTC, ISO 8601 with Z */
  timestamp: string;
  preparing_at: string | null;
  ready_at: string | null;
  served_at: string | null;
  recalled_at: string | null;
  items: OrderItem[];
}

/** One line of an order. */
export interface OrderItem {
  id: number;
  menu_item_id: number | null;
  name: string;
  quantity: number;
  options: any;
  note: string | null;
  station: string | null;
  status: OrderStatus;
  changed_at: string | null;
}

export type OrderStatus = "PLACED" | "PREPARING" | "READY" | "SERVING" | "SERVED" | "CANCELLED";

/** A robot and its newest state. */
export interface Robot {
  id: number;
  robot_id: string;
  type: string;
  name: string | null;
  status: RobotStatus;
  /** percent */
  battery_level: number | null;
  /** metres */
  x: number | null;
  /** metres */
  y: number | null;
  /** metres */
  z: number | null;
  /** radians */
  roll: number | null;
  /** radians */
  pitch: number | null;
  /** radians */
  yaw: number | null;
  joints: any;
  link: Link;
  mac_address: string | null;
  ip_address: string | null;
  last_seen: string | null;
  reported_at: string | null;
}

export type RobotStatus = "IDLE" | "SETTING" | "COOKING" | "PICKUP" | "SERVING" | "CLEANING" | "CHARGING" | "EMERGENCY" | "MAINTENANCE" | "SECURITY" | "BIRTHDAY" | "ERROR";

export type Severity = "INFO" | "WARNING" | "ERROR" | "CRITICAL";

/** The whole system at a glance: one object. Who may not look sees no details. */
export interface Status {
  server: Record<string, any>;
  storage: Record<string, any>;
  problems: (Record<string, any>)[];
  robots: Record<string, any>;
  sessions?: (Record<string, any>)[];
  [name: string]: any;
}

/** A line of a log. */
export interface SystemLog {
  id: number;
  level: LogLevel;
  source: string | null;
  message: string;
  data: any;
  /** UTC, ISO 8601 with Z */
  timestamp: string;
}

export type TableStatus = "AVAILABLE" | "OCCUPIED" | "RESERVED" | "CALLING" | "CLEANING";

export type VideoSource = "PINKY" | "COOKBOT" | "GLOBAL_CAM";

export type VideoStatus = "ACTIVE" | "INACTIVE" | "ERROR";

/** A camera. */
export interface VideoStream {
  id: number;
  name: string;
  source_type: VideoSource;
  url: string;
  status: VideoStatus;
  recording: boolean;
}

/** The row of each topic. */
export interface Rows {
  robots: Robot;
  tables: DiningTable;
  events: Event;
  orders: Order;
  systemlogs: SystemLog;
  customers: Customer;
  inventory: Inventory;
  video_streams: VideoStream;
  status: Status;
}
