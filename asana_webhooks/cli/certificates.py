"""A certificate authority for one run of the local Asana, and a certificate that it signs.

The key of the authority is never written, and is forgotten as soon as it has signed; so is the key
of the certificate, which OpenSSL reads from a file in a folder of its own (0700) for a moment. The
authority may vouch for the names of its one certificate and for nothing else (name constraints of
RFC 5280), so that trusting it trusts nobody on the internet.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import ssl
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

__all__ = ["REAL_HOST", "Certified", "certify", "usual_roots"]

REAL_HOST = "app.asana.com"

LIFETIME = dt.timedelta(days=365)
BEFORE = dt.timedelta(days=1)
"""Clocks of containers and machines differ."""


class Certified(NamedTuple):
    """The context of a server, and the certificate (PEM) that its callers must trust."""

    context: ssl.SSLContext
    authority: str


def certify(names: Iterable[str]) -> Certified:
    """Return a new authority, and a context with a certificate of it for these names.

    Names are host names and addresses. Raises ClickException without the extra ``crypto``, and
    ValueError for what is no host name.
    """
    try:
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.hazmat.primitives.serialization import Encoding
    except ImportError:
        msg = "certificates need the cryptography library: pip install 'asana-webhooks[crypto]'"
        raise click.ClickException(msg) from None
    hosts = [_general_name(name) for name in dict.fromkeys(names)]
    key, signing_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    authority = _authority(signing_key, hosts)
    certificate = _certificate(key, hosts, authority, signing_key)
    return Certified(
        _context(certificate.public_bytes(Encoding.PEM), key),
        authority.public_bytes(Encoding.PEM).decode(),
    )


def _general_name(name: str) -> x509.GeneralName:
    from cryptography import x509

    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _authority(key: EllipticCurvePrivateKey, hosts: list[x509.GeneralName]) -> x509.Certificate:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes

    name = _named("Local Asana: authority of one run")
    constraints = x509.NameConstraints([_only(host) for host in hosts], None)
    return (
        _builder(key, name, issuer=name)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(constraints, critical=True)
        .sign(key, hashes.SHA256())
    )


def _certificate(
    key: EllipticCurvePrivateKey,
    hosts: list[x509.GeneralName],
    authority: x509.Certificate,
    signing_key: EllipticCurvePrivateKey,
) -> x509.Certificate:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.x509.oid import ExtendedKeyUsageOID

    signer = authority.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    by = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(signer)
    server = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
    return (
        _builder(key, _named("Local Asana"), issuer=authority.subject)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(server, critical=False)
        .add_extension(by, critical=False)
        .add_extension(x509.SubjectAlternativeName(hosts), critical=False)
        .sign(signing_key, hashes.SHA256())
    )


def _builder(
    key: EllipticCurvePrivateKey, name: x509.Name, *, issuer: x509.Name
) -> x509.CertificateBuilder:
    from cryptography import x509

    now = dt.datetime.now(dt.UTC)
    digest = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BEFORE)
        .not_valid_after(now - BEFORE + LIFETIME)
        .add_extension(digest, critical=False)
    )


def _named(text: str) -> x509.Name:
    from cryptography import x509

    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])


def _only(host: x509.GeneralName) -> x509.GeneralName:
    """Return the constraint that lets this host through: an address is a network of one."""
    from cryptography import x509

    if isinstance(host, x509.IPAddress):
        return x509.IPAddress(ipaddress.ip_network(str(host.value)))
    return host


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    from cryptography import x509

    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _context(certificate: bytes, key: EllipticCurvePrivateKey) -> ssl.SSLContext:
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
    )

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.TemporaryDirectory(prefix="asana-webhooks-") as folder:
        path = Path(folder, "chain.pem")
        written = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        path.write_bytes(written + certificate)
        context.load_cert_chain(path)
    return context


def usual_roots(variable: str | None) -> str:
    """Return the authorities (PEM) that programs here trust: of a file, or the system's."""
    import certifi

    known = (variable, ssl.get_default_verify_paths().cafile, certifi.where())
    path = next(Path(each) for each in known if each and Path(each).is_file())
    return path.read_text(encoding="utf-8")
