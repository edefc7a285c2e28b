#!/usr/bin/env python3
"""Runs a program on a listening socket that outlives it, as systemd does with a socket unit: service.py HOST:PORT PROGRAM...

The socket is passed as sd_listen_fds(3) says. SIGUSR1 restarts the program as `systemctl restart` does: SIGTERM, its end, and
then a new process. SIGTERM ends both. Prints the process id of each start.
"""

import os
import signal
import socket
import sys

FIRST_PASSED = 3
SIGNALS = {signal.SIGUSR1, signal.SIGTERM, signal.SIGINT}


def listen(address):
    host, port = address.rsplit(":", 1)
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((host, int(port)))
    listener.listen(1024)
    return listener


def start(listener, program):
    pid = os.fork()
    if pid == 0:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        if listener.fileno() == FIRST_PASSED:
            os.set_inheritable(FIRST_PASSED, True)
        else:
            os.dup2(listener.fileno(), FIRST_PASSED, inheritable=True)
        variables = dict(os.environ, LISTEN_PID=str(os.getpid()), LISTEN_FDS="1")
        os.execvpe(program[0], program, variables)
    print("started", pid, flush=True)
    return pid


def stop(pid):
    os.kill(pid, signal.SIGTERM)
    _, status = os.waitpid(pid, 0)
    print("ended", pid, os.waitstatus_to_exitcode(status), flush=True)


def main():
    address, program = sys.argv[1], sys.argv[2:]
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    listener = listen(address)
    pid = start(listener, program)
    while signal.sigwait(SIGNALS) == signal.SIGUSR1:
        stop(pid)
        pid = start(listener, program)
    stop(pid)


main()
