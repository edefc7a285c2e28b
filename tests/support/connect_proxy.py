"""An HTTP proxy that knows one address by another name: connect_proxy.py LISTEN NAME.

CONNECT to NAME:PORT leads to 127.0.0.1:PORT, and every other is refused: nothing leaves this machine. dockerd shows no
certificate to a registry on 127.0.0.0/8, which it does not expect to speak TLS.
"""

import asyncio
import contextlib
import sys

PIECE = 1 << 18


async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while piece := await source.read(PIECE):
            sink.write(piece)
            await sink.drain()
    sink.close()


async def serve(client: asyncio.StreamReader, to_client: asyncio.StreamWriter, name: str) -> None:
    with contextlib.suppress(OSError, asyncio.IncompleteReadError):
        head = await client.readuntil(b"\r\n\r\n")
        method, _, target = head.decode("latin-1").partition(" ")
        host, _, port = target.partition(" ")[0].rpartition(":")
        if (method, host) == ("CONNECT", name):
            server, to_server = await asyncio.open_connection("127.0.0.1", int(port))
            to_client.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            await asyncio.gather(pump(client, to_server), pump(server, to_client))
        else:
            to_client.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
    to_client.close()


async def main() -> None:
    listen, name = sys.argv[1:]
    host, port = listen.rsplit(":", 1)
    server = await asyncio.start_server(lambda r, w: serve(r, w, name), host, int(port))
    await server.serve_forever()


asyncio.run(main())
