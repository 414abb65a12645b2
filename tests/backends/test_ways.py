"""The ways to a server: IPv6, TLS with an authority of one's own, a proxy, a unix socket."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from flowloop.backends.client.backend import GraphQLBackend
from flowloop.backends.server import ServerSettings, create_app
from flowloop.engine.errors import BackendRejected
from flowloop.engine.settings import Settings

SETTINGS = Settings(outage_limit=60)
OPEN = ServerSettings(require_api_key=False, scheduler=False, zombie_killer=False, lazarus=False, retention=False)


@asynccontextmanager
async def served(folder: Path, listener: socket.socket, **options: Any) -> AsyncIterator[None]:
    """Serve a database on a socket, as another server than flowloop's own would."""
    app = create_app(f"sqlite:///{folder}/runs.db", settings=OPEN)
    server = uvicorn.Server(uvicorn.Config(app, lifespan="on", log_config=None, **options))
    task = asyncio.create_task(server.serve(sockets=[listener]))
    while not server.started:
        assert not task.done()
        await asyncio.sleep(0.01)
    try:
        yield
    finally:
        server.should_exit = True
        await task


def listening(host: str) -> tuple[socket.socket, int]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host, 0), family=family)
    return listener, listener.getsockname()[1]


async def uses(url: str, **options: Any) -> None:
    async with GraphQLBackend(url, settings=SETTINGS, **options) as backend:
        assert await backend.list_flow_runs() == []


async def test_over_ipv6(tmp_path: Path) -> None:
    try:
        listener, port = listening("::1")
    except OSError:
        pytest.skip("this machine has no IPv6")
    async with served(tmp_path, listener):
        await uses(f"http://[::1]:{port}")


async def test_over_a_unix_socket(tmp_path: Path) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "s"))
    async with served(tmp_path, listener):
        await uses("http://flows", transport=httpx.AsyncHTTPTransport(uds=str(tmp_path / "s")))


async def test_through_a_proxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listener, port = listening("127.0.0.1")
    asked: list[bytes] = []

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        onward = await asyncio.open_connection("127.0.0.1", port)
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                asked.append(head.split(b"\r\n")[0])
                length = next(
                    int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")
                )
                onward[1].write(head.replace(b"http://flows.example", b"", 1) + await reader.readexactly(length))
                answer = await onward[0].readuntil(b"\r\n\r\n")
                length = next(
                    int(line[15:]) for line in answer.lower().split(b"\r\n") if line.startswith(b"content-length:")
                )
                writer.write(answer + await onward[0].readexactly(length))
        except asyncio.IncompleteReadError:
            pass
        finally:
            writer.close()
            onward[1].close()

    proxy = await asyncio.start_server(forward, "127.0.0.1", 0)
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{proxy.sockets[0].getsockname()[1]}")
    monkeypatch.setenv("NO_PROXY", "")
    async with proxy, served(tmp_path, listener):
        await uses("http://flows.example")
    assert asked
    assert all(line.startswith(b"POST http://flows.example") for line in asked)


def authority(folder: Path) -> tuple[str, str, str]:
    """Return the files of a certificate authority, of a certificate for this machine, and of its key."""
    now = datetime.datetime.now(datetime.UTC)

    def signed(name: str, key: Any, by: Any, issuer: str, *, is_authority: bool) -> x509.Certificate:
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(by.public_key()), critical=False)
        )
        if not is_authority:
            here = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
            builder = builder.add_extension(x509.SubjectAlternativeName([here]), critical=False)
        return builder.sign(by, hashes.SHA256())

    root, own = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    files = {
        "ca.pem": signed("our own", root, root, "our own", is_authority=True).public_bytes(serialization.Encoding.PEM),
        "cert.pem": signed("here", own, root, "our own", is_authority=False).public_bytes(serialization.Encoding.PEM),
        "key.pem": own.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ),
    }
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return str(folder / "ca.pem"), str(folder / "cert.pem"), str(folder / "key.pem")


async def test_over_tls_with_an_authority_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ca, certificate, key = authority(tmp_path)
    listener, port = listening("127.0.0.1")
    url = f"https://127.0.0.1:{port}"
    async with served(tmp_path, listener, ssl_certfile=certificate, ssl_keyfile=key):
        with pytest.raises(BackendRejected, match=f"the certificate of {url} .* in SSL_CERT_FILE"):
            await uses(url)
        monkeypatch.setenv("SSL_CERT_FILE", ca)
        await uses(url)
