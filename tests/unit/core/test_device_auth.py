"""A device's proof: good once, for its own challenge, in time; everything else is refused alike."""

import hashlib
import hmac
import unicodedata
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robodyne_rt.core import device_auth
from robodyne_rt.core.device_auth import CHALLENGE_S, NONCES_KNOWN, DeviceAuth, Identity, Known, proof
from robodyne_rt.protocol.errors import Forbidden, InvalidPayload

KEY, OLDER, STRANGE = b"k" * 32, b"o" * 32, b"s" * 32
REFUSED = r"^authentication failed$"
NONCE = "0123456789abcdef" * 2


def known(device_id: str) -> Known:
    if device_id in ("alba-1", "alba-2"):
        return Known({"new": KEY, "old": OLDER}, Identity(device_id, frozenset({device_id})))
    return Known({"": STRANGE, "-": STRANGE}, None)


@pytest.fixture
def auth() -> DeviceAuth:
    return DeviceAuth(known)


def answer(
    auth: DeviceAuth, client_nonce: str = NONCE, *, key: bytes = KEY, name: str = "alba-1", now: float = 0.0
) -> Identity:
    challenge = auth.challenge(name, client_nonce, now)
    return auth.prove(challenge, name, proof(key, name, challenge.nonce, client_nonce), now)


def test_the_proof_is_the_one_that_the_protocol_prints() -> None:
    text = b"robodyne-rt\nalba-1\naa\nbb"
    assert proof(KEY, "alba-1", "aa", "bb") == hmac.new(KEY, text, hashlib.sha256).hexdigest()


def test_both_keys_of_a_rotation_are_good(auth: DeviceAuth) -> None:
    assert answer(auth).device_id == "alba-1"
    older = answer(auth, NONCE[::-1], key=OLDER)
    assert older.may_speak_for("alba-1")
    assert known("alba-1").revalidate(older) == older
    assert Known({"new": KEY}, Identity("alba-1", None)).revalidate(older) is None, "the rotation is finished"


def test_a_challenge_is_good_for_five_seconds(auth: DeviceAuth) -> None:
    for late_s, is_good in ((CHALLENGE_S - 0.01, True), (CHALLENGE_S, False), (1e9, False)):
        challenge = auth.challenge("alba-1", f"{int(late_s):032x}", 100.0)
        said = proof(KEY, "alba-1", challenge.nonce, challenge.client_nonce)
        if is_good:
            assert auth.prove(challenge, "alba-1", said, 100.0 + late_s)
        else:
            with pytest.raises(Forbidden, match=REFUSED):
                auth.prove(challenge, "alba-1", said, 100.0 + late_s)


def test_a_nonce_of_a_client_is_good_once(auth: DeviceAuth) -> None:
    answer(auth)
    with pytest.raises(Forbidden, match=REFUSED):
        answer(auth)
    answer(auth, name="alba-2")  # another device's is another


def test_a_proof_without_a_challenge_is_refused(auth: DeviceAuth) -> None:
    for nonces in (("", ""), (NONCE, NONCE)):
        with pytest.raises(Forbidden, match=REFUSED):
            auth.prove(None, "alba-1", proof(KEY, "alba-1", *nonces), 0.0)
    with pytest.raises(Forbidden):
        auth.prove(None, "", proof(STRANGE, "", "", ""), 0.0)


def test_a_stranger_who_guesses_the_key_of_strangers_is_still_nobody(auth: DeviceAuth) -> None:
    with pytest.raises(Forbidden, match=REFUSED):
        answer(auth, key=STRANGE, name="nobody")


def test_a_challenge_for_one_proves_no_other(auth: DeviceAuth) -> None:
    challenge = auth.challenge("alba-1", NONCE, 0.0)
    for said in (
        proof(KEY, "alba-1", challenge.nonce, NONCE),
        proof(KEY, "alba-2", challenge.nonce, NONCE),
    ):
        with pytest.raises(Forbidden):
            auth.prove(challenge, "alba-2", said, 0.0)


def test_what_is_remembered_is_bounded(auth: DeviceAuth) -> None:
    for number in range(NONCES_KNOWN + 500):
        answer(auth, f"{number:032x}")
    assert len(auth._client_nonces) <= NONCES_KNOWN


@pytest.mark.parametrize(
    "nonce", ["", "a" * 31, "a" * 33, "a" * 30, "a" * 130, "g" * 32, "é" * 32, "a" * 32 + "\n", " " + "a" * 31, "１" * 32]
)
def test_a_nonce_that_is_not_sixteen_bytes_in_hex_is_refused(auth: DeviceAuth, nonce: str) -> None:
    with pytest.raises(InvalidPayload):
        auth.challenge("alba-1", nonce, 0.0)


@given(st.text(max_size=200))
def test_whatever_is_given_as_a_proof_is_refused(text: str) -> None:
    auth = DeviceAuth(known)
    challenge = auth.challenge("alba-1", NONCE, 0.0)
    with pytest.raises(Forbidden):
        auth.prove(challenge, "alba-1", text.encode(errors="replace").decode(), 0.0)


@given(st.text(max_size=20), st.text(max_size=20))
def test_an_identity_speaks_for_its_robots_and_no_others(robot: str, other: str) -> None:
    identity = Identity("x", frozenset({robot}))
    assert identity.may_speak_for(robot)
    assert identity.may_speak_for(other) == (other == robot)
    assert not Identity("x", frozenset()).may_speak_for("x")
    assert Identity("x", None).may_speak_for(robot)


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_a_device_proves_its_key_over_its_name_as_it_has_it(form: Literal["NFC", "NFD"]) -> None:
    row = {"device_id": unicodedata.normalize("NFD", "알바-1"), "robots": [unicodedata.normalize("NFD", "서빙")]}
    auth = DeviceAuth(lambda _: device_auth.known(row | {"key_id": "k", "previous_key_id": None}, lambda _: KEY))
    challenge = auth.challenge("알바-1", NONCE, 0.0)
    said = proof(KEY, unicodedata.normalize(form, "알바-1"), challenge.nonce, NONCE)
    identity = auth.prove(challenge, "알바-1", said, 0.0)
    assert identity.device_id == "알바-1"
    assert identity.may_speak_for("서빙") and not identity.may_speak_for("알바-1")


def test_a_nonce_that_was_sent_back_proves_nothing(auth: DeviceAuth) -> None:
    reflected = device_auth.Challenge("alba-1", NONCE, NONCE, CHALLENGE_S)
    with pytest.raises(Forbidden, match=REFUSED):
        auth.prove(reflected, "alba-1", proof(KEY, "alba-1", NONCE, NONCE), 0.0)
