"""Certificates for Ray's TLS: one certificate authority per cluster, and one certificate per node.

    python -m cluster.tls ca DIR                     writes ca.crt and ca.key, once per cluster
    python -m cluster.tls node CA_DIR DIR NAME...    writes tls.crt, tls.key and ca.crt, on each node before Ray starts

Ray's processes connect to each other by address, and use one certificate as server and as client. A certificate must
therefore name its node's addresses. They are unknown before the node exists, so each node creates its own certificate,
with the authority's key. Keep that key where the token is kept. Anyone who has the key or the token can run code on
this cluster; neither gives access to another cluster.
"""

from __future__ import annotations

import argparse
import ipaddress
import os
import re
import sys
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from cluster.access import make_private
from cluster.errors import ClusterError

CA_CERT, CA_KEY = "ca.crt", "ca.key"
NODE_CERT, NODE_KEY = "tls.crt", "tls.key"

_DAYS = 365
_SKEW = timedelta(hours=1)  # for nodes whose clocks are behind
_HOST_NAME = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*", re.IGNORECASE)


def make_authority(folder: Path) -> None:
    """Write `ca.crt` and `ca.key` into the folder.

    Raises ClusterError if either exists: nodes with certificates of the old key would be refused by new ones.
    """
    for name in (CA_CERT, CA_KEY):
        if (folder / name).exists():
            raise ClusterError(
                f"{folder / name} exists: to replace the authority, remove it and renew the certificates of all nodes"
            )
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "arspm cluster")])
    begin = datetime.now(timezone.utc) - _SKEW
    certificate = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(begin + timedelta(days=_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, SHA256())
    )
    make_private(folder)
    _write(folder / CA_KEY, _pem(key))
    _write(folder / CA_CERT, certificate.public_bytes(Encoding.PEM))


def make_node(authority: Path, folder: Path, names: Sequence[str]) -> None:
    """Write this node's `tls.crt` and `tls.key`, signed by the authority, and a copy of `ca.crt` into the folder.

    authority: the folder with `ca.crt` and `ca.key`.
    names: the addresses and host names at which other nodes reach this one; loopback is added.

    Raises ClusterError if `names` is empty or has an invalid entry, or if the authority cannot be read.
    """
    try:
        ca_pem = (authority / CA_CERT).read_bytes()
        ca = x509.load_pem_x509_certificate(ca_pem)
        ca_key = load_pem_private_key((authority / CA_KEY).read_bytes(), password=None)
    except (OSError, ValueError) as error:
        raise ClusterError(f"no certificate authority in {authority}: {error}") from None
    if not isinstance(ca_key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        raise ClusterError(f"{authority / CA_KEY} is neither an elliptic-curve key nor an RSA key")
    if not names:
        raise ClusterError("no names given: a certificate must name the addresses at which other nodes reach its node")
    alternative_names = [_general_name(name) for name in dict.fromkeys([*names, "localhost", "127.0.0.1", "::1"])]
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = (
        x509.CertificateBuilder(
            ca.subject,
            x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "arspm node")]),
            key.public_key(),
            x509.random_serial_number(),
        )
        .not_valid_before(datetime.now(timezone.utc) - _SKEW)
        .not_valid_after(ca.not_valid_after_utc)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
        )
        .add_extension(x509.SubjectAlternativeName(alternative_names), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, SHA256())
    )
    make_private(folder)
    _write(folder / NODE_KEY, _pem(key))
    _write(folder / NODE_CERT, certificate.public_bytes(Encoding.PEM))
    _write(folder / CA_CERT, ca_pem)


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        if not _HOST_NAME.fullmatch(name):
            raise ClusterError(f"{name!r} is neither an IP address nor a host name") from None
        return x509.DNSName(name)


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
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


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _write(path: Path, content: bytes) -> None:
    """Write a file that only its owner can read, from its creation on."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line and write the files. An error is printed as one line, with exit status 1."""
    parser = argparse.ArgumentParser(
        prog="python -m cluster.tls",
        description="Create the certificates for Ray's TLS.",
        epilog="example: python -m cluster.tls node ~/.arspm/ca ~/.arspm/tls $(hostname -I)",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    ca = commands.add_parser("ca", help="create a certificate authority for one cluster")
    ca.add_argument("folder", type=Path, help="directory for ca.crt and ca.key")
    node = commands.add_parser("node", help="create this node's certificate")
    node.add_argument("authority", type=Path, help="directory that `ca` wrote")
    node.add_argument("folder", type=Path, help="directory for tls.crt, tls.key and ca.crt")
    node.add_argument("names", nargs="+", help="IP addresses and host names of the node")
    chosen = parser.parse_args(arguments)
    try:
        if chosen.command == "ca":
            make_authority(chosen.folder)
        else:
            make_node(chosen.authority, chosen.folder, chosen.names)
    except (ClusterError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
