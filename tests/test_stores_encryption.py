"""Encrypting and decrypting secrets, without a store."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable

import pytest
from cryptography.fernet import Fernet
from rich.pretty import pretty_repr

from asana_webhooks.errors import StoreError
from asana_webhooks.stores._encryption import EncryptedSecret, SecretCipher, webhook_name

OLD, NEW = (Fernet.generate_key().decode() for _ in range(2))


def test_without_keys_a_secret_stays_as_it_is() -> None:
    assert SecretCipher().encrypt("r1", "secret") == EncryptedSecret("secret", None)
    assert SecretCipher().decrypt("r1", EncryptedSecret("secret")) == "secret"
    assert SecretCipher([]).reencrypt("r1", EncryptedSecret("secret")) is None


def test_equal_secrets_have_equal_fingerprints_and_different_ciphertexts() -> None:
    cipher = SecretCipher([NEW])
    first, second = cipher.encrypt("r1", "secret"), cipher.encrypt("r1", "secret")
    assert first.fingerprint == second.fingerprint == cipher.fingerprint("r1", "secret")
    assert first.ciphertext != second.ciphertext
    assert cipher.fingerprint("r2", "secret") != first.fingerprint


def test_ciphertext_is_decrypted_for_its_route_only() -> None:
    encrypted = SecretCipher([NEW]).encrypt("r1", "secret")
    assert SecretCipher([NEW]).decrypt("r1", encrypted) == "secret"
    with pytest.raises(StoreError, match="another route"):
        SecretCipher([NEW]).decrypt("r2", encrypted)


@pytest.mark.parametrize(
    "ciphertext",
    ["", "x", "gAAAA" * 20, "é" * 100, Fernet(NEW).encrypt(b"\xff").decode()],
    ids=["empty", "short", "altered", "not ASCII", "of something else"],
)
def test_ciphertext_that_no_key_opens_is_an_error(ciphertext: str) -> None:
    with pytest.raises(StoreError, match="encryption_keys"):
        SecretCipher([NEW]).decrypt("r1", EncryptedSecret("sha256:00", ciphertext))


@pytest.mark.parametrize("show", [repr, str, pretty_repr])
def test_encrypted_secret_is_not_shown_even_where_it_is_in_clear(
    show: Callable[[object], str],
) -> None:
    assert "secret" not in show(SecretCipher().encrypt("r1", "secret"))


def test_only_what_the_newest_key_did_not_encrypt_is_renewed() -> None:
    cipher = SecretCipher([NEW, OLD])
    assert cipher.reencrypt("r1", cipher.encrypt("r1", "secret")) is None
    for kept in (SecretCipher([OLD]).encrypt("r1", "secret"), EncryptedSecret("secret")):
        renewed = cipher.reencrypt("r1", kept)
        assert renewed is not None
        assert SecretCipher([NEW]).decrypt("r1", renewed) == "secret"


def test_text_that_is_no_unicode_is_encrypted_too() -> None:
    cipher = SecretCipher([NEW])
    assert cipher.decrypt("r\udc80", cipher.encrypt("r\udc80", "s\udcff")) == "s\udcff"


def test_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cryptography.fernet", None)
    SecretCipher()
    with pytest.raises(ValueError, match=r"asana-webhooks\[crypto\]"):
        SecretCipher([NEW])


def test_traceback_of_a_misplaced_secret_does_not_show_it() -> None:
    encrypted = SecretCipher([NEW]).encrypt("r1", "s" * 32)
    with pytest.raises(StoreError, match="another route") as caught:
        SecretCipher([NEW]).decrypt("r2", encrypted)
    shown = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    assert "s" * 32 not in "".join(shown.format())


@pytest.mark.parametrize(
    ("gid", "resource", "name"),
    [
        ("77", "12", "webhook 77 of resource 12"),
        (None, "12", "a webhook of resource 12"),
        ("77\n", "1 2", "a webhook of an unknown resource"),
        (b"\xff", b"\xff", "a webhook of an unknown resource"),
        ("7" * 65, "", "a webhook of an unknown resource"),
    ],
    ids=["both", "no gid yet", "other text", "damaged", "long"],
)
def test_webhook_is_named_by_what_are_gids(gid: object, resource: object, name: str) -> None:
    assert webhook_name(gid, resource) == name
