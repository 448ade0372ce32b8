"""The words that columns and messages share (SPEC section 2)."""

from enum import StrEnum


class RobotType(StrEnum):
    ALBABOT = "ALBABOT"
    COOKBOT = "COOKBOT"
    PINKY = "PINKY"


class RobotStatus(StrEnum):
    IDLE = "IDLE"
    SETTING = "SETTING"
    COOKING = "COOKING"
    PICKUP = "PICKUP"
    SERVING = "SERVING"
    CLEANING = "CLEANING"
    CHARGING = "CHARGING"
    EMERGENCY = "EMERGENCY"
    MAINTENANCE = "MAINTENANCE"
    SECURITY = "SECURITY"
    BIRTHDAY = "BIRTHDAY"
    ERROR = "ERROR"


class Link(StrEnum):
    ONLINE = "ONLINE"
    OFFLINE = "OFFLINE"
    CONNECTIONBROKEN = "CONNECTIONBROKEN"


class TableStatus(StrEnum):
    AVAILABLE = "AVAILABLE"
    OCCUPIED = "OCCUPIED"
    RESERVED = "RESERVED"
    CALLING = "CALLING"
    CLEANING = "CLEANING"


class Severity(StrEnum):
    INFO = "INFO"
    WARNING = "WARNING"
    ERROR = "ERROR"
    CRITICAL = "CRITICAL"


class LogLevel(StrEnum):
    DEBUG = "DEBUG"
    INFO = "INFO"
    WARNING = "WARNING"
    ERROR = "ERROR"
    CRITICAL = "CRITICAL"


class OrderStatus(StrEnum):
    PLACED = "PLACED"
    PREPARING = "PREPARING"
    READY = "READY"
    SERVING = "SERVING"
    SERVED = "SERVED"
    CANCELLED = "CANCELLED"


class LetterState(StrEnum):
    RETRYING = "RETRYING"
    PARKED = "PARKED"


class VideoSource(StrEnum):
    PINKY = "PINKY"
    COOKBOT = "COOKBOT"
    GLOBAL_CAM = "GLOBAL_CAM"


class VideoStatus(StrEnum):
    ACTIVE = "ACTIVE"
    INACTIVE = "INACTIVE"
    ERROR = "ERROR"


class TokenKind(StrEnum):
    LOGIN = "LOGIN"
    DISPLAY = "DISPLAY"
    API = "API"
