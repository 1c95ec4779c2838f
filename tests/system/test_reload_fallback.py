#!/usr/bin/env python3
"""A new configuration that a new worker cannot serve gives way to the old one; a worker that falls again and again comes back more and more
slowly; what lies on the disk in place of the program does not matter to a server that runs; a port that somebody else has is refused."""
import os
import re
import shutil
import signal
import socket
import tempfile

import lib
from lib import Checks, Client, Server, wait_until

checks = Checks()


def rewrite(server, text):
    with open(server.config, 'w') as file:
        file.write(text)


def text_of(server):
    with open(server.config) as file:
        return file.read()


def takes(server, token):
    with Client(server.address('smtp')) as client:
        for line in ('EHLO c.example', 'MAIL FROM:<a@b.example>', 'RCPT TO:<alice@rcpt.test>', 'DATA'):
            client.command(line)
        return client.command(f'Subject: {token}\r\n\r\nx\r\n.'.encode()).code == 250


def refused(server, count):
    return server._wait('the refusal', lambda: next((line for line in server.lines[count:] if 'not reloaded' in line), None))


def cannot_serve():
    """Two megabytes are no worker: it falls at once, each time; the old configuration is back each time, and no mail is lost."""
    with Server() as server:
        old = text_of(server)
        for number in range(2):
            worker, count, began = server.worker_pid, len(server.lines), len(server.events('server.started'))
            rewrite(server, old.replace('limits {', 'limits { memory = 2M ', 1) if 'limits {' in old else old + 'limits { memory = 2M }\n')
            server.process.send_signal(signal.SIGHUP)
            line = refused(server, count)
            checks.ok('a worker that cannot serve by the new configuration is refused, with words', 'the worker ended' in line, line)
            server.wait_events('server.started', began + 1)
            checks.ok('the old configuration serves again, by another worker', server.worker_pid not in (worker, server.process.pid) and takes(server, f'again {number}'))
            rewrite(server, old)
        checks.ok('nothing was reloaded', not server.events('config.reloaded'))
        server.wait_mails('alice', 2)
        checks.ok('and what was acknowledged is delivered', True)
        with socket.socket() as other:
            other.bind(('127.0.0.1', 0))
            other.listen()
            count = len(server.lines)
            rewrite(server, old + f'listen more {{ address = "127.0.0.1:{other.getsockname()[1]}" }}\n')
            server.process.send_signal(signal.SIGHUP)
            line = refused(server, count)
            checks.ok('a port in use is refused, with its name', 'listen more' in line and 'in use' in line, line)
        checks.ok('and the server serves', takes(server, 'port'))


def another_program():
    """An upgrade that went wrong: the file is no program any more. A new worker is made from the one that runs."""
    folder = tempfile.mkdtemp(prefix='holdfast-binary-')
    binary, lib_binary = os.path.join(folder, 'holdfast'), lib.HOLDFAST
    shutil.copy(lib_binary, binary)
    lib.HOLDFAST = binary
    try:
        with Server() as server:
            with open(binary + '.new', 'w') as file:
                file.write('#!/bin/sh\nexit 1\n')
            os.chmod(binary + '.new', 0o755)
            os.rename(binary + '.new', binary)
            lib.HOLDFAST = lib_binary       # for the commands
            takes(server, 'before')         # a first worker that never served is not replaced
            worker = server.worker_pid
            os.kill(worker, signal.SIGKILL)
            server.wait_events('server.started', 2)
            checks.ok('a worker that fell comes back though the file is another', server.worker_pid not in (worker, server.process.pid) and takes(server, 'binary'))
    finally:
        lib.HOLDFAST = lib_binary
        shutil.rmtree(folder)


def falls_again_and_again():
    with Server() as server:
        takes(server, 'before')
        for number in range(5):
            os.kill(server.worker_pid, signal.SIGKILL)
            server.wait_events('server.started', number + 2)
        pauses = [int(found.group(1)) for line in server.lines if (found := re.search(r'a new one starts in (\d+) ms', line))]
        checks.ok('a worker that falls again and again comes back more and more slowly', pauses == [100, 200, 400, 800, 1600], pauses)
        checks.ok('and serves', takes(server, 'slow'))


def does_not_end():
    """A worker that is stopped (as by a disk or a library that does not answer) does not hold up a stop for ever. The whole takes two minutes."""
    with Server() as server:
        os.kill(server.worker_pid, signal.SIGSTOP)
        server.process.send_signal(signal.SIGTERM)
        wait_until('the parent to end it', lambda: server.process.poll() is not None, patience_s=150)
        checks.ok('a worker that does not end is killed', any('did not end in time' in line for line in server.lines))


def does_not_begin():
    with Server() as server:
        count, worker, old = len(server.lines), server.worker_pid, text_of(server)
        rewrite(server, old + 'history = "{}"\n'.format(server.folder + '/history'))
        server.process.send_signal(signal.SIGHUP)

        def stopped():
            other = server.worker_pid
            if other in (worker, server.process.pid):
                return False
            os.kill(other, signal.SIGSTOP)
            return True
        wait_until('the new worker', stopped)
        line = wait_until('the refusal', lambda: next((line for line in server.lines[count:] if 'not reloaded' in line), None), patience_s=150)
        checks.ok('a new worker that does not begin to serve gives way to the old configuration', 'the worker ended' in line, line)
        server.wait_events('server.started', 2)
        checks.ok('which serves', takes(server, 'begin'))


for test in (cannot_serve, another_program, falls_again_and_again) + ((does_not_end, does_not_begin) if os.environ.get('HOLDFAST_FULL') else ()):
    try:
        test()
    except (AssertionError, OSError, IndexError, ValueError) as fault:
        checks.ok(test.__name__, False, f'{type(fault).__name__}: {fault}')
raise SystemExit(checks.done())
