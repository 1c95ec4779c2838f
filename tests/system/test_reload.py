#!/usr/bin/env python3
"""Reload and restart: a new configuration takes effect as a whole or not at all, and no connection is lost; a worker that
crashes is replaced, and no acknowledged message is."""
import os
import re
import signal
import socket
import subprocess
import threading
import time

from lib import PATIENCE_S, Checks, Client, Server, make_certificate, wait_until
from lib_faults import free_port

checks = Checks()
LOAD_S = float(os.environ.get('HOLDFAST_RELOAD_S', '6'))


def rewrite(server, old, new):
    """Changes the configuration's text; old must be there."""
    with open(server.config) as file:
        text = file.read()
    assert old in text, f'{old!r} is not in the configuration'
    with open(server.config, 'w') as file:
        file.write(text.replace(old, new))


def send(client, token, user='alice'):
    """One message; its id."""
    for command in ('MAIL FROM:<a@b.example>', f'RCPT TO:<{user}@rcpt.test>'):
        reply = client.command(command)
        assert reply.code == 250, reply
    assert client.command('DATA').code == 354
    reply = client.command(f'Subject: {token}\r\n\r\n{token}\r\n.'.encode())
    assert reply.code == 250, reply
    return reply.lines[-1].split()[-1].rstrip('.')


class Load:
    """Clients that come, send two messages with a pause between, and leave; and what went wrong."""

    def __init__(self, server, writers=8):
        self.server, self.acknowledged, self.faults, self.over, self.sessions = server, [], [], False, 0
        self.address = server.address('smtp')
        self.threads = [threading.Thread(target=self.write, args=(number,)) for number in range(writers)]
        for thread in self.threads:
            thread.start()

    def write(self, number):
        count = 0
        while not self.over:
            try:
                with Client(self.address) as client:
                    client.command('EHLO c.example')
                    for _ in range(2):
                        token = f'load-{number}-{count}'
                        send(client, token)
                        self.acknowledged.append(token)
                        count += 1
                        time.sleep(0.02)  # sessions are open while the configuration changes
                    reply = client.command('QUIT')
                    assert reply.code == 221, reply
                self.sessions += 1
            except (OSError, AssertionError) as fault:
                self.faults.append(f'{type(fault).__name__}: {fault}')
                count += 1

    def missing(self):
        found = {match.decode() for match in re.findall(rb'(?m)^Subject: (\S+)', b'\n'.join(self.server.mails('alice')))}
        return [token for token in self.acknowledged if token not in found]

    def is_delivered(self):
        """(whether, what is missing): a crash may deliver some twice, so they are not counted."""
        try:
            return wait_until('the last mail', lambda: not self.missing()), ''
        except AssertionError:
            return False, f'{len(self.missing())} of {len(self.acknowledged)}: {self.missing()[:5]}'

    def end(self):
        self.over = True
        for thread in self.threads:
            thread.join(PATIENCE_S)


def under_load():
    with Server(limits='message_size = 1M') as server:
        load = Load(server)
        old = Client(server.address('smtp'))
        size = [line for line in old.command('EHLO old.example').lines if 'SIZE' in line]
        end, reloads = time.monotonic() + LOAD_S, 0
        while time.monotonic() < end:
            rewrite(server, f'message_size = {reloads + 1}M', f'message_size = {reloads + 2}M')
            code, out, words = server.run('reload')
            assert code == 0, (code, out, words)
            reloads += 1
        load.end()
        print(f'# {reloads} reloads, {load.sessions} sessions, {len(load.acknowledged)} messages')
        checks.ok('reload under load: not one connection refused, reset or lost', not load.faults and load.sessions > 0,
                  f'{len(load.faults)}: {load.faults[:3]}')
        checks.ok('each reload is an event', len(server.wait_events('config.reloaded', reloads)) == reloads)
        with Client(server.address('smtp')) as client:
            fresh = [line for line in client.command('EHLO new.example').lines if 'SIZE' in line]
        checks.ok('a new session has the new settings', fresh == [f'250-SIZE {(reloads + 1) << 20}'] or str((reloads + 1) << 20) in fresh[0], fresh)
        again = [line for line in old.command('EHLO old.example').lines if 'SIZE' in line]
        checks.ok('a session from before has its own to its end', again == size and send(old, 'old'), (size, again))
        old.close()
        checks.ok('all that was acknowledged is delivered', *load.is_delivered())


def broken():
    with Server() as server:
        before = server.run('config', 'show')[1]
        for change, expected in ((('hostname = "mx.test"', 'hostnam = "mx.test"'), 'hostnam'),
                                 (('listen smtp {', 'listen extra { address = "192.0.2.1:1" }\nlisten smtp {'), 'listen extra'),
                                 (('/key.pem"', '/nowhere.pem"'), 'nowhere.pem'),
                                 (('/spool"', '/other"'), 'spool')):
            rewrite(server, *change)
            count = len(server.lines)
            server.process.send_signal(signal.SIGHUP)
            line = server._wait('the refusal', lambda: next((line for line in server.lines[count:] if 'not reloaded' in line), None))
            checks.ok(f'{change[1][:30]!r} is refused, with words', expected in line, line)
            if expected == 'hostnam':
                checks.ok('with file and line', f'{server.config}:1:' in line, line)
            rewrite(server, change[1], change[0])
        with Client(server.address('smtp')) as client:
            client.command('EHLO c.example')
            checks.ok('the old configuration runs on', client.banner.lines[0].startswith('220 mx.test') and send(client, 'after'))
        checks.ok('nothing was reloaded', not server.events('config.reloaded') and server.run('config', 'show')[1] == before)


def listeners():
    with Server() as server:
        with socket.socket() as probe:
            probe.bind(('127.0.0.1', 0))
            port = probe.getsockname()[1]
        rewrite(server, 'listen smtp {', f'listen more {{ address = "127.0.0.1:{port}" }}\nlisten smtp {{')
        code, _, words = server.run('reload')
        with Client(('127.0.0.1', port)) as client:
            checks.ok('a new listener serves', code == 0 and client.command('EHLO c.example').code == 250, words)
            rewrite(server, f'listen more {{ address = "127.0.0.1:{port}" }}\n', '')
            code, _, words = server.run('reload')
            checks.ok('its sessions outlive it', code == 0 and send(client, 'late'), words)

        def refused():
            try:
                Client(('127.0.0.1', port), banner=False).close()
                return False
            except ConnectionRefusedError:
                return True
        wait_until('the listener that was taken out to be closed', refused)
        checks.ok('a listener that was taken out is closed', True)


def certificate():
    with Server() as server:
        def serial():
            with Client(server.address('smtps'), tls=True) as client:
                return client.socket.getpeercert(binary_form=True)
        first = serial()
        with Client(server.address('smtp')) as before:
            before.command('EHLO c.example')
            make_certificate(server.folder)
            code, _, words = server.run('reload')
            checks.ok('a new certificate serves after a reload', code == 0 and serial() != first, words)
            before.command('STARTTLS')
            before.start_tls()
            checks.ok('a session from before still has the key of its certificate', before.socket.getpeercert(binary_form=True) == first)
        with open(os.path.join(server.folder, 'key.pem'), 'w') as file:
            file.write('no key\n')
        code, _, words = server.run('reload')
        checks.ok('a broken key is refused', code == 1 and 'key.pem' in words, words)


def beyond_the_locks():
    """A mailbox elsewhere: the running worker cannot write there, so a new one takes over; a bad one gives way again."""
    with Server() as server:
        elsewhere = os.path.join(os.path.dirname(server.folder), f'{os.path.basename(server.folder)}-mail')
        worker = server.worker_pid
        with open(server.config) as file:
            text = file.read()
        with open(server.config, 'w') as file:
            file.write(text.replace(f'maildir:{server.folder}/mail', f'maildir:{elsewhere}'))
        try:
            server.process.send_signal(signal.SIGHUP)
            server.wait_events('config.reloaded', 1)
            with Client(server.address('smtp')) as client:
                client.command('EHLO c.example')
                send(client, 'elsewhere')
            wait_until('the mail elsewhere', lambda: os.path.isdir(f'{elsewhere}/rcpt.test/alice/new') and os.listdir(f'{elsewhere}/rcpt.test/alice/new'))
            checks.ok('a path beyond the locks is served by a new worker', server.worker_pid != worker)
        finally:
            subprocess.run(['rm', '-rf', elsewhere], check=True)


def crash():
    with Server() as server:
        load = Load(server)
        crashes = 3
        for number in range(crashes):
            wait_until('some messages', lambda: len(load.acknowledged) >= 20 * (number + 1))
            worker = server.worker_pid
            os.kill(worker, signal.SIGSEGV)
            server.wait_events('server.started', number + 2)
        wait_until('more messages', lambda: len(load.acknowledged) >= 20 * (crashes + 1))
        load.end()
        refused = [fault for fault in load.faults if 'Refused' in fault]
        print(f'# {crashes} crashes, {len(load.acknowledged)} messages, {len(load.faults)} sessions cut')
        checks.ok('while the worker crashes no connection is refused', not refused, refused[:3])
        checks.ok('no acknowledged message is lost', *load.is_delivered())
        checks.ok('the journal names the signal', any('signal 11' in line for line in server.lines))


def at_the_wrong_moment():
    """SIGHUP while a new worker starts, and several at once: the last file counts."""
    port = free_port()
    with Server() as server:
        with Client(server.address('smtp')) as client:
            client.command('EHLO c.example')
            send(client, 'before')          # a first worker that never served is not replaced
        os.kill(server.worker_pid, signal.SIGSEGV)
        server._wait('the end of the worker to be told', lambda: any('signal 11' in line for line in server.lines))
        with open(server.config, 'a') as file:
            file.write(f'listen more {{ address = "127.0.0.1:{port}" }}\n')
        for _ in range(3):
            server.process.send_signal(signal.SIGHUP)
        server.wait_events('server.started', 2)
        server.wait_events('config.reloaded', 1)
        with Client(('127.0.0.1', port)) as client:
            checks.ok('a SIGHUP while it starts is done when it has started', client.banner.code == 220, client.banner)
        checks.ok('none is refused', not any('not reloaded' in line for line in server.lines))


for test in (under_load, broken, listeners, certificate, beyond_the_locks, at_the_wrong_moment, crash):
    try:
        test()
    except (AssertionError, OSError, IndexError, ValueError) as fault:
        checks.ok(test.__name__, False, f'{type(fault).__name__}: {fault}')
raise SystemExit(checks.done())
