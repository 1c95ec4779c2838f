#!/usr/bin/env python3
"""Further rows of the fault matrix from a terminal: a spool without inodes, a message damaged on the disk, clients that are slow or too
many, a filter that is overloaded, a directory that everybody asks again at once. One command says cause, side and what to do; that is
done, and the mail moves again."""
import glob
import os
import shutil
import subprocess
import threading

from lib import Checks, wait_until
from lib_directory import SLAPD, Slapd, skip_without
from lib_faults import FaultServer, FromAddress, Mail, expect_accepted, expect_healed, free_port
from lib_hop import NextHop
from test_diagnosis import sees, steps, type_in, well
from test_filter_memory import SlowSpamd
from test_faults_ldap import LDIF, users
from test_faults_spool import Disk, can_mount, refused_until, spool_on

checks = Checks()
SETTLE = 'incidents { settle = 200ms }\n'


# ------------------------------------------------------------------ the spool's disk

def no_inodes():
    """`df -i`, which is told, shows it; what took them is removed."""
    with Disk(inodes=128) as disk, spool_on(disk, SETTLE) as server:
        expect_accepted(server, Mail())
        folder = os.path.join(disk.at, 'many')
        os.mkdir(folder)
        try:
            for number in range(1000):
                os.close(os.open(os.path.join(folder, str(number)), os.O_CREAT | os.O_WRONLY))
        except OSError:
            pass
        refused_until(server, Mail(), 'spool.full')
        server.wait_events('incident.open')
        text = server.run('why', '--in')[1]
        sees(text, 'spool.full (side: ours)', 'at spool', 'inodes', 'means:', 'do:')
        command, = [step for step in steps(text) if step.startswith('df -i')]
        sees(subprocess.run(command.split(), capture_output=True, text=True, check=True).stdout, '100%', disk.at)
        shutil.rmtree(folder)
        expect_healed(server, Mail())
        server.wait_events('incident.closed')
        sees(server.run('why', '--in')[1], '0 still out')


def strike_body(folder, words):
    """One octet of the message's record is another: what a disk does that forgets its checksums."""
    for path in glob.glob(folder + '/log/*'):
        with open(path, 'r+b') as file:
            at = file.read().find(words)
            if at >= 0:
                file.seek(at)
                file.write(b'?')
                return True
    return False


def damaged():
    """A message in the queue is damaged on the disk. It is never sent; given back as told, and its sender knows."""
    port = free_port()
    with FaultServer(f'relay {{ from = {{"127.0.0.0/8"}} }}\nroute "far.example" {{ via = "smtp:127.0.0.1:{port}" }}\n'
                     f'retry {{ schedule = {{1h}}  jitter = 0 }}\n{SETTLE}') as server:
        Mail(sender='alice@home.example', to='x@far.example', body='of which there is but one').play(server)
        message = server.wait_events('delivery.deferred')[0]['message']
        server.stop()
        assert strike_body(server.folder + '/spool', b'of which there is but one')
        server.start()
        with NextHop(well, port) as hop:
            assert server.run('retry', message)[0] == 0
            server.wait_events('message.damaged')
            wait_until('the incident', lambda: 'body.damaged' in server.run('incidents')[1])
            sees(server.run('incidents')[1], 'sending: body.damaged (side: ours)', '1 recipient(s) wait', f'holdfast bounce {message}')
            text = server.run('why', message)[1]
            sees(text, 'cause body.damaged (ours)', 'stored body fails its checksum', 'means:', 'do:', 'Incident ')
            command, = [step for step in steps(text) if step.startswith('holdfast bounce')]
            assert type_in(server, command)[0] == 0
            server.wait_events('message.bounced', 1, message=message)
            assert b'x@far.example' in server.wait_mails('alice', 1, 'home.example')[0], 'the sender is told'
            wait_until('it to be over', lambda: 'body.damaged' not in server.run('incidents')[1])
            assert not hop.messages, 'it was sent'


# ------------------------------------------------------------------ clients

def session_of(server, cause):
    event = server.wait_events('message.deferred', cause=cause)[-1]
    return event['session']


def slow_client():
    """He is told 421; the story of his session says whose doing it was, and that nothing is to be done here."""
    with FaultServer('limits { command_timeout = 500ms }\n') as server:
        with FromAddress(server.address(), '127.0.0.9') as client:
            client.command('EHLO client.example')
            client.command('MAIL FROM:<slow@[127.0.0.9]>')
            client.command('RCPT TO:<alice@home.example>')
            assert client.reply().code == 421
        session = session_of(server, 'client.idle')
        sees(server.run('why', '--in')[1], 'client.idle', 'slow@[127.0.0.9]', '1 still out')
        text = server.run('why', session)[1]
        sees(text, 'cause client.idle (theirs)', 'client=127.0.0.9', 'means:', 'do:', 'holdfast why --in')
        expect_healed(server, Mail(sender='slow@[127.0.0.9]', source='127.0.0.9'))
        sees(server.run('why', '--in')[1], '1 came back', '0 still out')


def flood():
    """One client takes all that he may; others do not feel it. Who it was, and that a rule of ours answers him."""
    with FaultServer('limits { connections_per_client = 3 }\n') as server:
        clients = [FromAddress(server.address(), '127.0.0.9') for _ in range(30)]
        assert sum(client.banner.code == 220 for client in clients) == 3
        expect_accepted(server, Mail())
        session = session_of(server, 'client.busy')
        text = server.run('why', session)[1]
        sees(text, 'cause client.busy (policy)', 'client=127.0.0.9', 'stage=connect', 'means:', 'do:')
        for client in clients:
            client.socket.close()
        expect_healed(server, Mail(source='127.0.0.9'))


# ------------------------------------------------------------------ a filter that has too much to do

class Busy(SlowSpamd):
    """spamd that has no child to spare while `busy`: EX_TEMPFAIL, as spamd says it."""
    busy = False

    def talk(self, connection):
        if not self.busy:
            super().talk(connection)
            return
        with connection, connection.makefile('rb') as file:
            ping, length = file.readline().startswith(b'PING'), 0
            for line in iter(file.readline, b'\r\n'):
                if line.lower().startswith(b'content-length:'):
                    length = int(line.split(b':')[1])
            file.read(length)
            connection.sendall(b'SPAMD/1.5 0 PONG\r\n' if ping else b'SPAMD/1.1 75 EX_TEMPFAIL\r\n\r\n')


def overloaded():
    """It is not down, and says itself that it is too busy; the command that is told says when it is not any more."""
    spamd = Busy()
    spamd.let.set()
    with FaultServer(f'filter spam {{ speaks = spamd  address = "{spamd.address}"  timeout = 5s }}\n{SETTLE}') as server:
        try:
            expect_accepted(server, Mail())
            spamd.busy = True
            reply, _ = Mail(identity='<busy@client.example>').play(server)
            assert reply.code == 451 and reply.lines[-1].endswith('(filter.overloaded)'), reply
            server.wait_events('incident.open')
            text = server.run('why', '--in')[1]
            sees(text, 'filter.overloaded (side: ours)', 'at spam', 'too busy', 'more workers', '1 still out')
            command, = [step for step in steps(text) if 'filter test' in step]
            code, out, err = type_in(server, command)
            assert code != 0, (out, err)
            sees(out + err, 'filter.overloaded')
            spamd.busy = False
            assert type_in(server, command)[0] == 0
            expect_healed(server, Mail(identity='<busy@client.example>'))
            server.wait_events('incident.closed')
            sees(server.run('why', '--in')[1], '1 came back', '0 still out')
        finally:
            spamd.close()


# ------------------------------------------------------------------ a directory that comes back

def reconnect_storm():
    """A hundred clients ask while it is away, and again when it is back: one incident, and no more connections than were set."""
    def all_at_once(server, count):
        replies = []

        def one(number):
            replies.append(Mail(sender=f'a{number}@[127.0.0.1]', source=f'127.0.1.{number + 1}').play(server)[0].code)
        threads = [threading.Thread(target=one, args=(number,)) for number in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return replies
    with Slapd(LDIF, tls=False) as slapd, FaultServer(SETTLE + 'directory { connections = 3  timeout = 5s }\n', users=users(slapd)) as server:
        expect_accepted(server, Mail())
        slapd.stop()
        assert set(all_at_once(server, 30)) == {451}
        server.wait_events('incident.open')
        text = server.run('why', '--in')[1]
        sees(text, 'directory.unavailable (side: ours)', 'at ldap://', '30 still out', "Can't contact LDAP server")
        assert text.count('(side: ours)') == 1, 'one fault, one incident'
        command, = [step for step in steps(text) if 'alias expand' in step]
        slapd.start()
        assert type_in(server, command)[0] == 0
        expect_healed(server, Mail())
        again = all_at_once(server, 30)
        assert set(again) <= {250, 451}, again
        for number in range(30):
            expect_healed(server, Mail(sender=f'a{number}@[127.0.0.1]', source=f'127.0.1.{number + 1}'))
        server.wait_events('incident.closed')
        sees(server.run('why', '--in')[1], '30 came back', '0 still out')


def main():
    if can_mount():
        checks.run('spool: no inodes left', no_inodes)
    else:
        checks.skip('spool: no inodes left', 'no loop mount here (needs root and mkfs.ext4)')
    checks.run('spool: a damaged message', damaged)
    checks.run('peers: a slow client', slow_client)
    checks.run('filters: overloaded', overloaded)
    checks.run('machine: a flood of connections', flood)
    if not skip_without(checks, 'directory: asked again by all at once', SLAPD):
        checks.run('directory: asked again by all at once', reconnect_storm)
    return checks.done()


if __name__ == '__main__':
    raise SystemExit(main())
