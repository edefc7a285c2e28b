"""Stands between clients and a TLS server and keeps what passes: tap.py LISTEN TARGET CERTIFICATE KEY CA FILE.

LISTEN and TARGET are HOST:PORT. To clients it is the server, with CERTIFICATE and KEY; the target's certificate is verified
with CA. FILE gets the bytes of both directions, decrypted, of all connections, as they come.
"""

import asyncio
import contextlib
import ssl
import sys

PIECE = 1 << 18


async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter, kept) -> None:
    """Until `source` ends; then `sink` is closed too, as is usual in TLS."""
    with contextlib.suppress(OSError):
        while piece := await source.read(PIECE):
            kept.write(piece)
            sink.write(piece)
            await sink.drain()
    sink.close()


async def relay(client: asyncio.StreamReader, to_client: asyncio.StreamWriter, target: str, trusted: ssl.SSLContext, kept) -> None:
    host, port = target.rsplit(":", 1)
    try:
        server, to_server = await asyncio.open_connection(host, int(port), ssl=trusted)
    except OSError:
        to_client.close()
        return
    await asyncio.gather(pump(client, to_server, kept), pump(server, to_client, kept))


async def main() -> None:
    listen, target, certificate, key, ca, file = sys.argv[1:]
    served = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    served.load_cert_chain(certificate, key)
    trusted = ssl.create_default_context(cafile=ca)
    host, port = listen.rsplit(":", 1)
    with open(file, "ab", buffering=0) as kept:
        server = await asyncio.start_server(lambda r, w: relay(r, w, target, trusted, kept), host, int(port), ssl=served)
        await server.serve_forever()


asyncio.run(main())
