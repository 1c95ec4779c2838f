#!/usr/bin/env python3
"""The filter's fault domain, with a real clamd that is stopped, paused and killed, and with a fake that answers by halves.
Each time the reply, the journal and the metrics have to agree on the cause, and nothing unscanned may be taken."""
import os
import re
import shutil
import signal
import socket
import subprocess
import threading

from lib import Checks, wait_until
from lib_faults import EICAR, FaultServer, FromAddress, Mail, expect, expect_accepted, expect_healed
from lib_strike import Doors

CLEAN = 'stream: OK\0'
SIGNATURE = 'Holdfast.Test'


class Clamd:
    """A clamd of our own in `folder`, which knows one signature."""

    def __init__(self, folder):
        self.folder, self.socket = folder, os.path.join(folder, 'clamd.sock')
        self.process = None
        os.makedirs(os.path.join(folder, 'db'))
        os.makedirs(os.path.join(folder, 'tmp'))
        with open(os.path.join(folder, 'db', 'test.ndb'), 'w') as file:
            file.write(f'{SIGNATURE}:0:*:{EICAR.encode().hex()}\n')
        with open(os.path.join(folder, 'clamd.conf'), 'w') as file:
            file.write(f'LocalSocket {self.socket}\nFixStaleSocket true\nDatabaseDirectory {folder}/db\n'
                       f'TemporaryDirectory {folder}/tmp\nForeground true\nStreamMaxLength 100K\n')

    def start(self):
        self.process = subprocess.Popen(['clamd', '-c', os.path.join(self.folder, 'clamd.conf')],
                                        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            wait_until('clamd to answer', self.answers)
        except AssertionError:
            self.kill()
            raise

    def answers(self):
        try:
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(self.socket)
                client.sendall(b'zPING\0')
                return client.recv(16) == b'PONG\0'
        except OSError:
            return False

    def connections(self):
        """Lines of the kernel's table for this socket beyond the one that listens."""
        with open('/proc/net/unix') as table:
            return sum(1 for line in table if line.rstrip().endswith(self.socket)) - 1

    def pause(self):
        self.process.send_signal(signal.SIGSTOP)

    def resume(self):
        self.process.send_signal(signal.SIGCONT)

    def kill(self):
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()


class FakeClamd:
    """Takes a whole INSTREAM, then sends `answer` and closes; None: sends nothing and keeps the connection. PING is
    answered while `probes` is set."""

    def __init__(self, port=0):
        self.answer, self.kept, self.probes = CLEAN, [], True
        self.listener = socket.create_server(('127.0.0.1', port), backlog=64)
        self.address = '127.0.0.1:%d' % self.listener.getsockname()[1]
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.talk, args=(connection,), daemon=True).start()

    def talk(self, connection):
        if self.answer is None:
            self.kept.append(connection)
            return
        with connection, connection.makefile('rb') as file:
            if file.read(6) == b'zPING\0':
                if self.probes:
                    connection.sendall(b'PONG\0')
                return
            file.read(4)
            size = int.from_bytes(file.read(4), 'big')
            while size:
                file.read(size)
                size = int.from_bytes(file.read(4), 'big')
            connection.sendall(self.answer.encode())

    def close(self):
        self.listener.shutdown(socket.SHUT_RDWR)     # the thread in accept, too
        self.listener.close()


def filter_text(address, more=''):
    return f'filter scan {{ speaks = clamd  address = "{address}"  timeout = 3s  connect_timeout = 2s  {more} }}\n'


# ------------------------------------------------------------------ a real clamd

def refused(server):
    event = expect(server, Mail(body=EICAR), '550 5.7.1', 'filter.refused', 'dot')
    assert SIGNATURE in event.get('text', '') and event.get('filter') == 'scan', f'the journal does not name finding and filter: {event}'
    assert server.metric('holdfast_filter_seconds_count', filter='scan') >= 1, 'no time of the filter was measured'


def stopped(server, clamd):
    clamd.kill()
    expect(server, Mail(), '451 4.3.0', 'filter.unreachable', 'dot')
    expect(server, Mail(body=EICAR), '451 4.3.0', 'filter.unreachable', 'dot')
    clamd.start()
    expect_accepted(server, Mail())


def paused(server, clamd):
    clamd.pause()
    expect(server, Mail(), '451 4.3.0', 'filter.timeout', 'dot')
    clamd.resume()
    wait_until('clamd to answer', clamd.answers)
    expect_accepted(server, Mail())


def killed_in_the_middle(server, clamd):
    """Paused, it has the message in its socket and no answer out; then it dies."""
    clamd.pause()
    before = clamd.connections()

    def kill_when_asked():
        wait_until('the message to reach clamd', lambda: clamd.connections() > before)
        clamd.kill()
    killer = threading.Thread(target=kill_when_asked)
    killer.start()
    try:
        expect(server, Mail(), '451 4.3.0', 'filter.crashed', 'dot')
    finally:
        killer.join()
    clamd.start()
    expect_accepted(server, Mail())


def too_large(server):
    expect(server, Mail(body='\r\n'.join(['x' * 900] * 300)), '451 4.7.1', 'filter.unscannable', 'dot')


def breaker(server, clamd):
    """Five failures open it: then new clients hear 421 instead of a banner, and a probe closes it again."""
    assert server.metric('holdfast_breaker_open', dependency='scan') == 0, 'it is open already'
    inside = FromAddress(server.address(), '127.0.0.1')
    inside.command('EHLO client.example')
    # What came before may have opened and closed it, too.
    before, after = (len(server.events(name)) for name in ('breaker.open', 'breaker.closed'))
    clamd.kill()
    for _ in range(5):
        expect(server, Mail(), '451 4.3.0', 'filter.unreachable', 'dot')
    opened = server.wait_events('breaker.open', before + 1)[-1]
    assert opened['cause'] == 'filter.unreachable' and opened['filter'] == 'scan', opened
    assert server.metric('holdfast_breaker_open', dependency='scan') == 1, 'the gauge does not say so'
    told = expect(server, Mail(), '421 4.3.2', 'filter.down', 'connect')
    assert told.get('filter') == 'scan' and 'filter.unreachable' in told.get('text', ''), told
    for line in ('MAIL FROM:<a@[127.0.0.1]>', 'MAIL FROM:<b@[127.0.0.1]>'):    # who was in goes on, and hears 451
        reply = inside.command(line)
        assert reply.code == 451 and reply.lines[-1].endswith('(filter.unreachable)'), reply.lines
    clamd.start()
    server.wait_events('breaker.closed', after + 1)
    assert inside.command('MAIL FROM:<a@[127.0.0.1]>').code == 250, 'the open session is not served again'
    inside.close()
    assert server.metric('holdfast_breaker_open', dependency='scan') == 0, 'the gauge does not say so'
    expect_accepted(server, Mail())


def real(checks):
    if not shutil.which('clamd'):
        checks.skip('a real clamd', 'clamd is not installed (clamav-daemon)')
        return
    with FaultServer(filter_text('unix:{folder}/clamd/clamd.sock'), start=False) as server:
        clamd = Clamd(os.path.join(server.folder, 'clamd'))
        try:
            clamd.start()
            server.start()
            checks.run('clean mail is taken', lambda: expect_accepted(server, Mail()))
            checks.run('EICAR is refused', lambda: refused(server))
            checks.run('mail over its limit is deferred', lambda: too_large(server))
            checks.run('clamd stopped', lambda: stopped(server, clamd))
            checks.run('clamd paused', lambda: paused(server, clamd))
            checks.run('clamd killed in the middle', lambda: killed_in_the_middle(server, clamd))
            checks.run('breaker', lambda: breaker(server, clamd))
            checks.run('nothing infected was delivered', lambda: nothing_infected(server))
        finally:
            clamd.kill()


def nothing_infected(server):
    mails = server.mails('alice', 'home.example')
    assert mails and not any(EICAR.encode() in mail for mail in mails), 'an infected message is in the Maildir'


# ------------------------------------------------------------------ answers by halves

def halves(server, fake):
    """Every cut of the one good answer; a whole one in between keeps the breaker closed."""
    for cut in range(len(CLEAN)):
        fake.answer = CLEAN[:cut]
        expect(server, Mail(), '451 4.3.0', 'filter.crashed' if cut == 0 else 'filter.garbled', 'dot')
        fake.answer = CLEAN
        expect_accepted(server, Mail())


def nonsense(server, fake):
    for answer in ('HTTP/1.1 200 OK\r\n\0', 'OK\0', 'stream: OK\0stream: OK\0', 'stream: ok\0', '\0', 'x' * 5000):
        fake.answer = answer
        expect(server, Mail(), '451 4.3.0', 'filter.garbled', 'dot')
        fake.answer = CLEAN
        expect_accepted(server, Mail())


def own_words(server, fake):
    fake.answer = 'stream: Can\'t load the database ERROR\0'
    expect(server, Mail(), '451 4.3.5', 'filter.misconfigured', 'dot')
    fake.answer = CLEAN
    expect_healed(server, Mail())


def by_halves(checks):
    fake = FakeClamd()
    with FaultServer(filter_text(fake.address)) as server:
        checks.run('half an answer, cut at every byte', lambda: halves(server, fake))
        checks.run('nonsense', lambda: nonsense(server, fake))
        checks.run('its own error', lambda: own_words(server, fake))
    fake.close()


# ------------------------------------------------------------------ scores

def scores(checks):
    """spamd: from reject_score on, and not a tenth below."""
    score = ['5.0']

    def serve(connection):
        data = b''
        while b'\r\n\r\n' not in data:
            data += connection.recv(65536)
        if not data.startswith(b'PING'):
            head, body = data.split(b'\r\n\r\n', 1)
            size = int(re.search(rb'Content-length: (\d+)', head).group(1))
            while len(body) < size:
                body += connection.recv(65536)
        spam = f'X-Spam-Score: {score[0]}\r\n\r\n'
        connection.sendall(f'SPAMD/1.1 0 EX_OK\r\nContent-length: {len(spam)}\r\nSpam: False ; {score[0]} / 9.0\r\n\r\n{spam}'.encode())

    doors = Doors(serve)
    text = f'filter spam {{ speaks = spamd  address = "127.0.0.1:{doors.port}"  reject_score = 5.0 }}\n'
    with FaultServer(text) as server:
        checks.run('spamd: exactly reject_score is refused', lambda: expect(server, Mail(), '550 5.7.1', 'filter.refused', 'dot'))
        score[0] = '4.9'
        checks.run('spamd: below it is taken', lambda: expect_accepted(server, Mail()))
    doors.close()


# ------------------------------------------------------------------ on_fault

def accepted_with_header(server, fake):
    fake.answer = ''
    expect_accepted(server, Mail())
    mail = server.mails('alice', 'home.example')[-1]
    assert b'X-Holdfast-Filter: scan; not scanned; cause=filter.crashed' in mail.split(b'\nFrom:')[0].splitlines(), mail


def refuses_only_what_is_unscannable(server, fake):
    fake.answer = ''
    expect(server, Mail(), '451 4.3.0', 'filter.crashed', 'dot')
    fake.answer = 'INSTREAM size limit exceeded. ERROR\0'
    expect(server, Mail(), '550 5.7.1', 'filter.unscannable.final', 'dot')


def two_instances(server, first, second):
    """One instance down is not the filter down; both are."""
    first.answer = second.answer = ''
    first.probes = second.probes = False            # before the first probe, which comes at once when it opens
    for _ in range(5):
        expect(server, Mail(), '451 4.3.0', 'filter.crashed', 'dot')
    server.wait_events('breaker.open', 2)
    expect(server, Mail(), '421 4.3.2', 'filter.down', 'connect')
    second.probes, second.answer = True, CLEAN
    server.wait_events('breaker.closed', 1)
    expect_accepted(server, Mail())
    first.probes = True


def settings(checks):
    fake = FakeClamd()
    with FaultServer(filter_text(fake.address, 'on_fault = accept')) as server:
        checks.run('on_fault = accept leaves a header', lambda: accepted_with_header(server, fake))
    with FaultServer(filter_text(fake.address, 'on_fault = refuse')) as server:
        checks.run('on_fault = refuse never refuses for an outage', lambda: refuses_only_what_is_unscannable(server, fake))
    second = FakeClamd()
    both = filter_text(f'{fake.address}", "{second.address}').replace('address = "', 'address = {"').replace('"  timeout', '"}  timeout')
    with FaultServer(both) as server:
        fake.answer, second.answer = '', CLEAN
        checks.run('the second instance takes over', lambda: expect_accepted(server, Mail()))
        second.answer = 'stream: Bad.Thing FOUND\0'
        checks.run('and its word counts', lambda: expect(server, Mail(), '550 5.7.1', 'filter.refused', 'dot'))
    with FaultServer(both) as server:
        checks.run('filter.down only when both are down', lambda: two_instances(server, fake, second))
    fake.answer = second.answer = None
    two = (f'filter one {{ speaks = clamd  address = "{fake.address}"  timeout = 2m }}\n'
           f'filter two {{ speaks = clamd  address = "{second.address}"  timeout = 2m }}\nlimits {{ after_dot = 2s }}\n')
    with FaultServer(two) as server:  # the client's patience is below the filters' own time
        checks.run('one deadline over all after the dot', lambda: expect(server, Mail(), '451 4.3.0', 'filter.timeout', 'dot'))
    fake.close()
    second.close()


def main():
    checks = Checks()
    real(checks)
    by_halves(checks)
    scores(checks)
    settings(checks)
    return checks.done()


if __name__ == '__main__':
    raise SystemExit(main())
