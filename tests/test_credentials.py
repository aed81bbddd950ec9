"""Content Credentials (C2PA), read and checked by C2PA's own library where that is installed."""

import datetime
import io
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from PIL import Image

from detector.claims import read_claims
from detector.credentials import read_credentials
from detector.pool import DecodingPool
from detector.preprocessed import Claim, Preprocessed
from tests.claims import GENERATIVE, GENERATIVE_SAID

if os.environ.get("CI"):
    import c2pa
else:
    c2pa = pytest.importorskip("c2pa", reason="this needs a library: pip install c2pa-python")

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID, NameOID

SIGNED_SAID = (
    f"Content Credentials; made with Painter 1.2; {GENERATIVE_SAID}; signed in the name of “Example Works”, "
    "which no list of trusted certificates was asked about"
)
MANIFEST = {
    "claim_generator_info": [{"name": "Painter", "version": "1.2"}],
    "assertions": [
        {
            "label": "c2pa.actions",
            "data": {"actions": [{"action": "c2pa.created", "digitalSourceType": GENERATIVE}]},
        }
    ],
}


def certificate(name: str, key: Any, issuer: str, issuer_key: Any, is_authority: bool, revocations: str) -> bytes:
    def named(organization: str) -> x509.Name:
        attributes = [(NameOID.ORGANIZATION_NAME, organization), (NameOID.COMMON_NAME, organization)]
        return x509.Name([x509.NameAttribute(*attribute) for attribute in attributes])

    now = datetime.datetime.now(datetime.UTC)
    uses = [not is_authority, False, False, False, False, is_authority, is_authority, False, False]
    address = x509.UniformResourceIdentifier(revocations)
    status = x509.AccessDescription(AuthorityInformationAccessOID.OCSP, address)
    one = (
        x509.CertificateBuilder()
        .subject_name(named(name))
        .issuer_name(named(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(1))
        .not_valid_after(now + datetime.timedelta(1))
        .add_extension(x509.BasicConstraints(is_authority, None), critical=True)
        .add_extension(x509.KeyUsage(*uses), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityInformationAccess([status]), critical=False)
        .sign(issuer_key, hashes.SHA256())
    )
    return one.public_bytes(serialization.Encoding.PEM)


def make_signer(revocations: str = "http://127.0.0.1:9/") -> Any:
    """revocations: the address at which one may ask whether the certificate was revoked."""
    root, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    chain = certificate("Example Works", key, "Root", root, False, revocations)
    chain += certificate("Root", root, "Root", root, True, revocations)
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    private = key.private_bytes(encoding, form, serialization.NoEncryption())
    return c2pa.C2paSignerInfo(alg=b"es256", sign_cert=chain, private_key=private, ta_url=None)


@pytest.fixture(scope="module")
def signer() -> Any:
    return make_signer()


def signed(signer: Any, form: str) -> bytes:
    picture, out = io.BytesIO(), io.BytesIO()
    Image.effect_noise((32, 32), 50).convert("RGB").save(picture, form)
    picture.seek(0)
    c2pa.Builder(MANIFEST).sign(c2pa.Signer.from_info(signer), f"image/{form.lower()}", picture, out)
    return out.getvalue()


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "AVIF", "TIFF", "GIF"])
def test_a_signature_that_fits_is_told(form: str, signer: Any) -> None:
    pool = DecodingPool(1)
    (one,) = pool.preprocess([signed(signer, form)], 32)
    pool.close()
    assert isinstance(one, Preprocessed)
    assert Claim("C2PA", SIGNED_SAID, signed=True) in one.claims


def test_a_picture_that_was_changed_afterwards_is_told(signer: Any) -> None:
    data = bytearray(signed(signer, "JPEG"))
    data[-20] ^= 1
    (claim,) = read_claims(bytes(data))
    assert not claim.signed
    assert claim.says.startswith("Content Credentials that do not fit the file; made with Painter 1.2; ")
    assert "assertion.dataHash.mismatch" in claim.says


def test_credentials_that_are_torn_are_told(signer: Any) -> None:
    data = signed(signer, "PNG")
    place = data.index(b"caBX") + 100
    (claim,) = read_claims(data[:place] + bytes(200) + data[place + 200 :])
    assert not claim.signed
    assert claim.says.startswith("Content Credentials that ")


@pytest.fixture
def asked() -> Iterator[tuple[str, list[str]]]:
    """An address, and what has been asked of it."""
    paths: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            paths.append(self.path)
            self.send_error(404)

        do_POST = do_HEAD = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", paths
    server.shutdown()
    server.server_close()


def test_no_address_in_a_file_is_asked(signer: Any, asked: tuple[str, list[str]]) -> None:
    """Manifests may lie elsewhere: whoever looks at a picture would tell its maker so."""
    address, paths = asked
    picture, out = io.BytesIO(), io.BytesIO()
    Image.new("RGB", (32, 32)).save(picture, "JPEG")
    picture.seek(0)
    builder = c2pa.Builder(MANIFEST)
    builder.set_remote_url(f"{address}/manifest.c2pa")
    builder.set_no_embed()
    builder.sign(c2pa.Signer.from_info(signer), "image/jpeg", picture, out)
    assert read_claims(out.getvalue()) == []
    read_credentials(out.getvalue())
    read_credentials(signed(make_signer(f"{address}/ocsp"), "JPEG"))
    assert paths == []
