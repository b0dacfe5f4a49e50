from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asana_webhooks.errors import SignatureError
from asana_webhooks.signature import parse_signature, sign, verify_signature

SECRET = "b537207f20cbfa02357cf448134da559e8bd39d61597dcd5631b8012eae53e81"


def test_signature_is_that_of_the_standard_vectors() -> None:
    # RFC 4231, test case 2
    expected = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
    assert sign(b"what do ya want for nothing?", "Jefe") == expected


@given(st.binary(), st.text())
def test_what_was_signed_verifies(body: bytes, secret: str) -> None:
    verify_signature(body, sign(body, secret), secret)
    verify_signature(body, sign(body, secret).upper(), secret)


@given(st.binary(), st.text(), st.text())
def test_any_other_text_raises_signature_error(body: bytes, signature: str, secret: str) -> None:
    with pytest.raises(SignatureError):
        verify_signature(body, signature, secret)


@given(st.binary(min_size=1), st.data())
def test_one_flipped_bit_of_the_body_does_not_verify(body: bytes, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(body) * 8 - 1))
    forged = bytearray(body)
    forged[at // 8] ^= 1 << at % 8
    with pytest.raises(SignatureError):
        verify_signature(bytes(forged), sign(body, SECRET), SECRET)


GOOD = sign(b"{}", SECRET)


@pytest.mark.parametrize(
    "signature",
    [
        pytest.param("", id="empty"),
        pytest.param(GOOD[:-1], id="63 characters"),
        pytest.param(GOOD + "0", id="65 characters"),
        pytest.param("sha256=" + GOOD, id="prefixed"),
        pytest.param("g" * 64, id="not hex"),
        pytest.param("é" * 64, id="not ascii"),
        pytest.param("\udcff" * 64, id="undecodable bytes"),
        pytest.param("٣" * 64, id="digits of another script"),
        pytest.param(f"{GOOD},{GOOD}", id="joined by a comma"),
        pytest.param(" " + GOOD[1:], id="blank inside"),
        pytest.param("0x" + GOOD[2:], id="0x"),
    ],
)
def test_malformed_signature_is_refused_before_any_comparison(signature: str) -> None:
    assert parse_signature(signature) is None
    with pytest.raises(SignatureError, match="64 hex digits"):
        verify_signature(b"{}", signature, SECRET)


def test_missing_header_is_a_signature_error_as_any_wrong_one() -> None:
    headers: dict[str, str] = {}
    with pytest.raises(SignatureError, match="64 hex digits"):
        verify_signature(b"{}", headers.get("X-Hook-Signature"), SECRET)


def test_the_message_holds_neither_secret_nor_signature() -> None:
    with pytest.raises(SignatureError) as caught:
        verify_signature(b"{}", sign(b"other", SECRET), SECRET)
    assert SECRET not in repr(caught.value)
    assert sign(b"{}", SECRET) not in repr(caught.value)


NO_BYTES = ("{}", None, 7, ["{}"])
NO_TEXTS = (b"text", 7, ["text"])


@pytest.mark.parametrize(
    ("name", "value"),
    [("body", value) for value in NO_BYTES]
    + [("signature", value) for value in NO_TEXTS]
    + [("secret", value) for value in (*NO_TEXTS, None)],
)
def test_argument_of_another_type_is_named(name: str, value: Any) -> None:
    arguments: dict[str, Any] = {"body": b"{}", "signature": GOOD, "secret": SECRET, name: value}
    with pytest.raises(TypeError, match=rf"^{name} must be .*, not {type(value).__name__}$"):
        verify_signature(**arguments)
    if name != "signature":
        del arguments["signature"]
        with pytest.raises(TypeError, match=rf"^{name} must be .*, not {type(value).__name__}$"):
            sign(**arguments)


@pytest.mark.parametrize("kind", [bytearray, memoryview])
def test_body_may_be_in_a_buffer(kind: Any) -> None:
    verify_signature(kind(b"{}"), sign(kind(b"{}"), SECRET), SECRET)
