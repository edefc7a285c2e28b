"""A client of HTTP/2 that obeys no rule: frames by hand (RFC 9113), headers as literals without an index (RFC 7541, 6.2.2)."""

import struct
import time

from wire import Broken, connect

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 2, 3, 4, 6, 7, 8, 9
END_STREAM, ACK, END_HEADERS = 1, 1, 4
HEADER_TABLE_SIZE, INITIAL_WINDOW_SIZE = 1, 4
CANCEL = 8
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
# The static table's entries that are a whole `:status` (RFC 7541, appendix A).
STATUSES = {8: 200, 9: 204, 10: 206, 11: 304, 12: 400, 13: 404, 14: 500}
STATUS_NAMES = range(8, 15)
# Huffman codes of the digits: three of five bits, the others of six.
DIGITS = {"00000": "0", "00001": "1", "00010": "2", **{f"{code:06b}": str(code - 22) for code in range(25, 32)}}


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def settings(values: dict[int, int]) -> bytes:
    return frame(SETTINGS, 0, 0, b"".join(struct.pack(">HI", name, value) for name, value in values.items()))


def window(stream: int, more: int) -> bytes:
    return frame(WINDOW_UPDATE, 0, stream, struct.pack(">I", more))


def reset(stream: int, code: int = CANCEL) -> bytes:
    return frame(RST_STREAM, 0, stream, struct.pack(">I", code))


def text(value: str) -> bytes:
    """A string literal that is not compressed, with its length as an integer of a 7-bit prefix."""
    content = value.encode()
    length = len(content)
    if length < 127:
        return bytes([length]) + content
    prefix, length = b"\x7f", length - 127
    while length >= 128:
        prefix, length = prefix + bytes([length % 128 + 128]), length // 128
    return prefix + bytes([length]) + content


def block(fields: list[tuple[str, str]]) -> bytes:
    return b"".join(b"\0" + text(name) + text(value) for name, value in fields)


def status_of(block: bytes) -> int:
    """Reads the status, which is the first field of every answer. The dynamic table has no place, so that nothing is in it."""
    while block and block[0] & 0xE0 == 0x20:
        block = block[1:]
    if not block:
        return 0
    if block[0] & 0x80:
        return STATUSES.get(block[0] & 0x7F, 0)
    if block[0] & 0x0F not in STATUS_NAMES:
        return 0
    length, value = block[1] & 0x7F, block[2 : 2 + (block[1] & 0x7F)]
    if not block[1] & 0x80:
        return int(value)
    bits, digits = f"{int.from_bytes(value, 'big'):0{length * 8}b}", ""
    while len(digits) < 3:
        code = next(code for code in DIGITS if bits.startswith(code))
        digits, bits = digits + DIGITS[code], bits[len(code) :]
    return int(digits)


class Http2:
    """One connection. `window` is the window of each stream as the gateway may use it; 0 holds all answers up."""

    def __init__(self, gateway, source: str = "127.0.0.1", window: int = 65_535, timeout: float = 10, receive_buffer: int = 0):
        self.authority = f"{gateway.target[0]}:{gateway.target[1]}"
        raw = connect(gateway.target, source, timeout, receive_buffer)
        try:
            self.socket = gateway.trusted["h2"].wrap_socket(raw, server_hostname="localhost")
            self.next, self.held = 1, bytearray()
            self.statuses: dict[int, int] = {}
            self.received: dict[int, int] = {}
            self.ended: set[int] = set()
            self.goaway: int | None = None
            self.send(PREFACE + settings({HEADER_TABLE_SIZE: 0, INITIAL_WINDOW_SIZE: window}))
        except BaseException:
            raw.close()
            raise

    def send(self, content: bytes) -> None:
        self.socket.sendall(content)

    def headers(self, method: str, path: str, fields: dict[str, str], ends: bool = True) -> tuple[int, bytes]:
        """Returns the number of the next stream, and the frame that opens it."""
        stream, self.next = self.next, self.next + 2
        pseudo = [(":method", method), (":scheme", "https"), (":authority", self.authority), (":path", path)]
        content = block(pseudo + [(name.lower(), value) for name, value in fields.items()])
        return stream, frame(HEADERS, END_HEADERS | (END_STREAM if ends else 0), stream, content)

    def open(self, method: str, path: str, fields: dict[str, str], ends: bool = True) -> int:
        stream, content = self.headers(method, path, fields, ends)
        self.send(content)
        return stream

    def read(self, seconds: float) -> bool:
        """Takes in what comes within this time, or until the gateway closes: then it returns false."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self.socket.settimeout(left)
            try:
                piece = self.socket.recv(256 * 1024)
            except TimeoutError:
                return True
            except OSError:
                return False
            if not piece:
                return False
            self.held += piece
            self.take_frames()
        return True

    def take_frames(self) -> None:
        while len(self.held) >= 9:
            length = int.from_bytes(self.held[:3], "big")
            if len(self.held) < 9 + length:
                return
            kind, flags, stream = struct.unpack(">BBI", self.held[3:9])
            payload = bytes(self.held[9 : 9 + length])
            del self.held[: 9 + length]
            self.took(kind, flags, stream, payload)

    def took(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == HEADERS:
            self.statuses[stream] = status_of(payload)
        elif kind == DATA:
            self.received[stream] = self.received.get(stream, 0) + len(payload)
        elif kind == GOAWAY:
            self.goaway = int.from_bytes(payload[4:8], "big")
        elif kind == SETTINGS and not flags & ACK:
            self.send(frame(SETTINGS, ACK, 0))
        elif kind == PING and not flags & ACK:
            self.send(frame(PING, ACK, 0, payload))
        if kind == RST_STREAM or kind in (HEADERS, DATA) and flags & END_STREAM:
            self.ended.add(stream)

    def until(self, done, seconds: float) -> None:
        """Reads until `done()`."""
        deadline = time.monotonic() + seconds
        while not done():
            if time.monotonic() > deadline or not self.read(0.05):
                raise Broken("the answers did not come")

    def close(self) -> None:
        self.socket.close()
