"""Sealing and opening secrets, without a store."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest
from cryptography.fernet import Fernet
from rich.pretty import pretty_repr

from asana_webhooks.errors import StoreError
from asana_webhooks.stores._encryption import EncryptedSecret, SecretCipher

OLD, NEW = (Fernet.generate_key().decode() for _ in range(2))


def test_without_keys_a_secret_stays_as_it_is() -> None:
    assert SecretCipher().seal("r1", "secret") == EncryptedSecret("secret", None)
    assert SecretCipher().open("r1", EncryptedSecret("secret")) == "secret"
    assert SecretCipher([]).renew("r1", EncryptedSecret("secret")) is None


def test_equal_secrets_have_equal_marks_and_different_seals() -> None:
    vault = SecretCipher([NEW])
    first, second = vault.seal("r1", "secret"), vault.seal("r1", "secret")
    assert first.mark == second.mark == vault.mark("r1", "secret")
    assert first.seal != second.seal
    assert vault.mark("r2", "secret") != first.mark


def test_seal_opens_for_its_route_only() -> None:
    sealed = SecretCipher([NEW]).seal("r1", "secret")
    assert SecretCipher([NEW]).open("r1", sealed) == "secret"
    with pytest.raises(StoreError, match="another route"):
        SecretCipher([NEW]).open("r2", sealed)


@pytest.mark.parametrize(
    "seal",
    ["", "x", "gAAAA" * 20, "é" * 100, Fernet(NEW).encrypt(b"\xff").decode()],
    ids=["empty", "short", "altered", "not ASCII", "of something else"],
)
def test_seal_that_no_key_opens_is_an_error(seal: str) -> None:
    with pytest.raises(StoreError, match="encryption_keys"):
        SecretCipher([NEW]).open("r1", EncryptedSecret("sha256:00", seal))


@pytest.mark.parametrize("show", [repr, str, pretty_repr])
def test_sealed_secret_is_not_shown_even_where_it_is_in_clear(
    show: Callable[[object], str],
) -> None:
    assert "secret" not in show(SecretCipher().seal("r1", "secret"))


def test_only_what_the_newest_key_did_not_seal_is_renewed() -> None:
    vault = SecretCipher([NEW, OLD])
    assert vault.renew("r1", vault.seal("r1", "secret")) is None
    for kept in (SecretCipher([OLD]).seal("r1", "secret"), EncryptedSecret("secret")):
        renewed = vault.renew("r1", kept)
        assert renewed is not None
        assert SecretCipher([NEW]).open("r1", renewed) == "secret"


def test_text_that_is_no_unicode_is_sealed_too() -> None:
    vault = SecretCipher([NEW])
    assert vault.open("r\udc80", vault.seal("r\udc80", "s\udcff")) == "s\udcff"


def test_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cryptography.fernet", None)
    SecretCipher()
    with pytest.raises(ValueError, match=r"asana-webhooks\[crypto\]"):
        SecretCipher([NEW])
