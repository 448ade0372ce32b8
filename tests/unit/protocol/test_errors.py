"""One table of errors: each meaning has one word on each wire, and says whether to try again."""

import pytest

from robodyne_rt.protocol import errors
from robodyne_rt.protocol.errors import all_errors, closes, of_status, retry_after_close, status_of_device_code


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (None, 200),
        ("INVALID_PAYLOAD", 422),
        ("UNKNOWN_TYPE", 422),
        ("UNAUTHORIZED", 403),
        ("CONFLICT", 409),
        ("TOO_LARGE", 413),
        ("RATE_LIMITED", 429),
        ("STORAGE_UNAVAILABLE", 503),
        ("TIMEOUT", 408),
        ("SERVER_ERROR", 500),
    ],
)
def test_what_a_device_reads_is_a_status_over_http(code: str | None, status: int) -> None:
    assert status_of_device_code(code) == status


def test_what_aiohttp_refuses_has_a_meaning() -> None:
    assert [of_status(status) for status in (400, 404, 405, 413)] == [
        errors.BadRequest,
        errors.ResourceNotFound,
        errors.MethodNotAllowed,
        errors.TooLarge,
    ]
    assert of_status(418) is None


@pytest.mark.parametrize(
    ("code", "reason", "retry"),
    [
        (1008, "topic_full", "wait"),
        (1008, "forbidden", "never"),
        (1008, "token_missing", "after_login"),
        (1008, "", "never"),
        (1008, "a word of a later version", "never"),
        (4001, "token_expired", "after_refresh"),
        (4001, "token_invalid", "after_login"),
        (4004, "session_replaced", "never"),
        (1003, "unknown_topic", "never"),
        (1001, "shutting_down", "wait"),
        (4003, "heartbeat_lost", "with_position"),
        (4005, "too_slow", "with_position"),
        (1009, "too_large", "with_position"),
        (1006, "", "with_position"),
        (None, "", "with_position"),
    ],
)
def test_a_close_says_whether_to_come_back(code: int | None, reason: str, retry: str) -> None:
    assert retry_after_close(code, reason) == retry


def test_a_reason_belongs_to_one_close_code() -> None:
    found = [(error.close_reason, error.close_code) for error in all_errors() if "close_reason" in vars(error)]
    assert len({reason for reason, _ in found}) == len(found)
    assert set(closes()) >= {reason for reason, _ in found}
