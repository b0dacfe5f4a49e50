"""The authority of one run: what its certificate is good for, and what becomes of its keys."""

from __future__ import annotations

import ssl
import sys
import tempfile
from pathlib import Path

import click
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from asana_webhooks.cli import certificates
from asana_webhooks.cli.certificates import REAL_HOST, Certified, certify, usual_roots

NAMES = [REAL_HOST, "localhost", "127.0.0.1", "::1"]


def shake_hands(certified: Certified, name: str) -> str | None:
    """Call a server by this name, in memory; return the protocol, or raise why it is refused."""
    trusting = ssl.create_default_context(cadata=certified.authority)
    trusting.verify_flags |= ssl.VERIFY_X509_STRICT  # as Python from 3.13 on
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    caller = trusting.wrap_bio(back, there, server_hostname=name)
    server = certified.context.wrap_bio(there, back, server_side=True)
    for side in (caller, server, caller, server):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
    return caller.version()


@pytest.mark.parametrize("name", NAMES)
def test_server_is_trusted_under_each_of_its_names(name: str) -> None:
    assert shake_hands(certify(NAMES), name) == "TLSv1.3"


@pytest.mark.parametrize("name", ["api.asana.com", "127.0.0.2"])
def test_server_is_trusted_under_no_other_name(name: str) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match="match"):
        shake_hands(certify(NAMES), name)


def test_authority_can_vouch_for_no_host_of_the_internet() -> None:
    ours, other = ([certificates._general_name(name)] for name in (REAL_HOST, "example.com"))
    signing_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    authority = certificates._authority(signing_key, ours)
    forged = certificates._certificate(key, other, authority, signing_key)
    context = certificates._context(forged.public_bytes(Encoding.PEM), key)
    text = authority.public_bytes(Encoding.PEM).decode()
    with pytest.raises(ssl.SSLCertVerificationError, match="permitted subtree violation"):
        shake_hands(Certified(context, text), "example.com")


def test_each_run_has_an_authority_of_its_own() -> None:
    first, second = certify([REAL_HOST]), certify([REAL_HOST])
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(Certified(first.context, second.authority), REAL_HOST)


def test_no_key_stays_on_the_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    modes = []
    load = ssl.SSLContext.load_cert_chain

    def watched(self: ssl.SSLContext, path: Path) -> None:
        modes.append(path.parent.stat().st_mode & 0o777)
        assert path.read_bytes().count(b"PRIVATE KEY") == 2  # where one begins and where it ends
        load(self, path)

    monkeypatch.setattr(ssl.SSLContext, "load_cert_chain", watched)
    certified = certify([REAL_HOST])
    assert modes == [0o700]
    assert [*tmp_path.iterdir()] == []
    assert "PRIVATE" not in certified.authority
    x509.load_pem_x509_certificate(certified.authority.encode())


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.asymmetric", None)
    with pytest.raises(click.ClickException, match=r"asana-webhooks\[crypto\]"):
        certify([REAL_HOST])


def test_usual_roots_are_those_of_the_variable_or_the_systems(tmp_path: Path) -> None:
    mine = tmp_path / "mine.pem"
    mine.write_text("my own authorities")
    assert usual_roots(str(mine)) == "my own authorities"
    for variable in (None, "", str(tmp_path / "missing.pem")):
        assert usual_roots(variable).count("BEGIN CERTIFICATE") > 50
