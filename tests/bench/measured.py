"""A server whose CPU time is measured, and the programs that load it."""

import contextlib
import mmap
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

PATH = os.environ["PATH"] + ":/usr/sbin:/usr/local/sbin"

WRK_REPORT = """
done = function(summary, latency, requests)
  local e = summary.errors
  io.stderr:write(string.format("%d %d %d %d\\n", summary.requests, summary.bytes, summary.duration,
    e.connect + e.read + e.write + e.status + e.timeout))
end
"""


class Server:
    """A process, its children, and what they have spent."""

    def __init__(self, command, log):
        env = {"PATH": PATH, "HOME": os.environ.get("HOME", "/")}
        self.process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=env,
                                        cwd=Path(log.name).parent, start_new_session=True)

    def cpu(self):
        """Seconds in user and kernel, of every process of its session."""
        ticks = 0
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                fields = stat.read_text().rpartition(")")[2].split()
                if int(fields[3]) == self.process.pid:
                    ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def end(self):
        self.process.terminate()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def touch_memory(size):
    """Uses so many bytes of memory once: the host of a virtual machine finds them at the first touch, which takes five times as long
    as to fill them, and would be in the figures of whoever comes first."""
    piece = bytes([1]) * (1 << 20)
    with mmap.mmap(-1, size) as memory:
        while memory.tell() + len(piece) <= size:
            memory.write(piece)


def run(command, **options):
    done = subprocess.run([str(word) for word in command], capture_output=True, timeout=60, env={**os.environ, "PATH": PATH}, **options)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stdout.decode()}{done.stderr.decode()}")
    return done


def wrk(folder, url, connections, seconds, *options):
    """HTTP/1.1, kept alive."""
    report = folder / "report.lua"
    report.write_text(WRK_REPORT)
    command = ["wrk", "-t", "1" if connections < 16 else "2", "-c", str(connections), "-d", f"{seconds}s", "-s", str(report), *options, url]
    requests, size, micros, errors = map(int, run(command).stderr.split()[-4:])
    return {"requests": requests, "bytes": size, "micros": micros, "errors": errors}


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def wait_for(port, process):
    for _ in range(100):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return True
        if process.poll() is not None:
            return False
        time.sleep(0.1)
    return False
