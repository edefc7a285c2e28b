"""A server that something is wrong with: front.py ADDRESS limits | hangs | cuts TARGET BYTES.

`limits` answers every request with 429, as Docker Hub does. `hangs` accepts connections and never answers. `cuts` passes
connections on to TARGET, and ends each after that many bytes of the answer.
"""

import asyncio
import contextlib
import sys

PIECE = 1 << 14
LIMITED = b'{"errors":[{"code":"TOOMANYREQUESTS","message":"You have reached your unauthenticated pull rate limit."}]}'


async def limits(client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
    while await client.readuntil(b"\r\n\r\n"):
        head = f"HTTP/1.1 429 Too Many Requests\r\nContent-Type: application/json\r\nContent-Length: {len(LIMITED)}\r\n\r\n"
        to_client.write(head.encode() + LIMITED)


async def hangs(client: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    while await client.read(PIECE):
        pass


async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter, most: int | None) -> None:
    with contextlib.suppress(OSError):
        while piece := await source.read(PIECE):
            sink.write(piece)
            await sink.drain()
            if most is not None and (most := most - len(piece)) < 0:
                break
    sink.close()


async def cuts(client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
    host, port = sys.argv[3].rsplit(":", 1)
    server, to_server = await asyncio.open_connection(host, int(port))
    await asyncio.gather(pump(client, to_server, None), pump(server, to_client, int(sys.argv[4])))


async def main() -> None:
    (host, port), serve = sys.argv[1].rsplit(":", 1), {"limits": limits, "hangs": hangs, "cuts": cuts}[sys.argv[2]]

    async def guarded(client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await serve(client, to_client)
        to_client.close()

    async with await asyncio.start_server(guarded, host, int(port)) as server:
        await server.serve_forever()


asyncio.run(main())
