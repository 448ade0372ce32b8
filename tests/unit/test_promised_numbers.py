"""Numbers that SPEC promises, or that people live with, stand in the code as they were promised.

Tests of behaviour use the names, so that they say what they mean; a number that was changed by mistake is found here.
"""

import importlib

import pytest

NUMBERS = {
    # SPEC section 2: nothing is deleted in the first hour after a start or a jump of 60 s, nor by a clock 35 days ahead
    "core.clock_watch.CALM_S": 3600,
    "core.clock_watch.JUMP_S": 60,
    "core.clock_watch.LEAD_S": 35 * 86400,
    # SPEC section 3
    "protocol.topic_messages.PART_BYTES": 1 << 20,
    "protocol.topic_messages.MAX_INTERVAL_S": 3600,
    "hub.connection.BAD_MESSAGES": 20,
    "hub.connection.BAD_WINDOW_S": 60,
    "core.heartbeat.REMEMBERED_PINGS": 3,
    # SPEC section 4
    "core.outbox.MAX_WAITING": 1000,
    "work.requests.WORK_S": 30,
    "core.session_table.SESSIONS_OF_A_USER": 200,
    # SPEC section 5
    "core.framing.SILENCE_S": 0.05,
    "core.framing.INCOMPLETE_S": 5,
    "core.device_auth.CHALLENGE_S": 5,
    "protocol.device_messages.CLOCK_AHEAD_S": 60,
    "protocol.device_messages.CLOCK_BEHIND_S": 86400,
    "devices.tcp.DISPLACED_AFTER_S": 10,
    "devices.receiver.MAX_FAILURES": 20,
    "devices.device_protocol.PROVEN_WITHIN_S": 5,
    # SPEC section 6
    "core.spooling.LATE_S": 1,
    "core.spooling.PATIENCE_S": 5,
    # SPEC section 8
    "core.tickets.TICKET_S": 30,
    "core.tickets.MAX_TICKETS": 20,
    "core.pairing.PAIRING_S": 600,
    "web.jwt_tokens.LEEWAY_S": 30,
    "web.jwt_tokens.LIFETIME_CAP_S": 12 * 3600,
    "web.passwords.PASSWORD_CONCURRENCY": 2,
    "web.accounts.ACCESS_S": 3600,
    "web.accounts.LOGIN_S": 30 * 86400,
    "web.accounts.LONGEST_S": 400 * 86400,
    # SPEC section 10
    "client.core.FIRST_WAIT_S": 1,
    "client.core.LONGEST_WAIT_S": 30,
    # Bounds that keep others from harm
    "core.pairing.MAX_OPEN": 1000,
    "core.tickets.MAX_OPEN": 1000,
    "core.window.WINDOW_BYTES": 16 << 20,
    "protocol.json_depth.MAX_DEPTH": 32,
    "protocol.session_messages.MAX_TEXT": 4000,
    "protocol.session_messages.MAX_ID": 200,
    "web.jwt_tokens.MAX_TOKEN_BYTES": 8192,
    "web.body.DEADLINE_S": 10,
    "web.passwords.MAX_WAITING": 20,
    "supervision.RECENT_S": 60,
    "devices.turns.ALONE_AFTER_S": 1,
    "devices.device_protocol.MAX_UNANSWERED": 128,
    "devices.device_protocol.MAX_UNANSWERED_SHARED": 32,
    "devices.device_protocol.ANSWERS_TAKEN_WITHIN_S": 30,
    "devices.device_protocol.ENDED_WITHIN_S": 15,
    "web.listener.HANDSHAKE_S": 5,
    "devices.tcp.HANDSHAKE_S": 5,
}


@pytest.mark.parametrize("name", NUMBERS)
def test_a_promised_number_stands_in_the_code(name: str) -> None:
    module, _, constant = name.rpartition(".")
    assert getattr(importlib.import_module(f"robodyne_rt.{module}"), constant) == NUMBERS[name]
