#!/usr/bin/env python3
"""Incidents as an operator meets them: they open and close by themselves on both sides, are told once a mark by mail and by
command, survive a restart, and tracing and transcripts show the dialogue without its secrets."""
import base64
import json
import os
import signal
import socket
import stat
import subprocess
import time

from lib import HOLDFAST, Checks, Client, wait_until
from lib_faults import FaultServer, Mail, expect_healed, free_port
from lib_hop import NextHop

checks = Checks()
MARKS = 'incidents { notice = 2s  sustained = 4s  escalate = 6s  settle = 200ms }\n'
DOWN = '451 4.3.0 Temporary local problem'


def relay(port, every='300ms'):
    return (f'relay {{ from = {{"127.0.0.0/8"}} }}\nroute "far.example" {{ via = "smtp:127.0.0.1:{port}" }}\n'
            f'retry {{ schedule = {{{every}}}  jitter = 0 }}\n')


def changing(replies):
    def script(hop):
        hop.say('220 hop ESMTP')
        hop.serve(changing=replies, extensions=('PIPELINING',))
    return script


def ask(server, *words):
    code, out, error = server.run(*words, '--json')
    assert code in (0, 1), (code, out, error)
    return json.loads(out)


def recorder(server, text='cat > "$0.$HOLDFAST_STATE.$$"; echo "$*" >> "$0.arguments"'):
    """A program that keeps what it is told, beside itself."""
    path = os.path.join(server.folder, 'tell')
    with open(path, 'w') as file:
        file.write('#!/bin/sh\n' + text + '\n')
    os.chmod(path, 0o755)
    return path


def told(server, state):
    return [name for name in os.listdir(server.folder) if name.startswith(f'tell.{state}.')]


def operator_server(extra):
    server = FaultServer(extra, start=False)
    recorder(server)
    return server


# ------------------------------------------------------------------ marks, mail, command, restart

def marks():
    replies = {'rcpt': DOWN}
    with NextHop(changing(replies)) as hop:
        server = FaultServer(relay(hop.port) + MARKS + 'operator { mail = "alice@home.example"  command = "{folder}/tell --page $HOME;x" }\n',
                             start=False)
        recorder(server)
        server.start()
        with server:
            Mail(to='x@far.example').play(server)
            opened = server.wait_events('incident.open')
            assert len(opened) == 1 and opened[0]['cause'] == 'remote.deferred' and opened[0]['side'] == 'theirs', opened
            incident = opened[0]['incident']
            server.wait_events('incident.mark', 3)
            server.wait_events('operator.told', 6)
            rows = ask(server, 'incidents')
            assert [(row['id'], row['state'], row['waiting']) for row in rows] == [(incident, 'escalated', 1)], rows
            assert rows[0]['text'] == DOWN and rows[0]['told'] == {'mail': 'escalated', 'command': 'escalated'}, rows
            mails = server.wait_mails('alice', 3, 'home.example')
            subjects = [line for mail in mails for line in mail.decode().splitlines() if line.startswith('Subject:')]
            assert sum(f'{state}: remote.deferred' in ''.join(subjects) for state in ('notice', 'sustained', 'escalated')) == 3, subjects
            assert all(incident in mail.decode() and DOWN in mail.decode() and 'Auto-Submitted: auto-generated' in mail.decode()
                       for mail in mails)
            assert [len(told(server, state)) for state in ('notice', 'sustained', 'escalated')] == [1, 1, 1]
            with open(server.folder + '/tell.arguments') as file:
                assert file.read().split('\n')[0] == '--page $HOME;x', 'a shell has read it'
            # A restart goes on with the incident, and tells nothing twice.
            server.stop()
            server.start()
            assert [row['id'] for row in ask(server, 'incidents')] == [incident]
            server.wait_events('delivery.deferred', 2)
            assert not server.events("operator.told") and not server.events("incident.open"), server.events()
            replies.clear()
            closed = server.wait_events('incident.closed')
            assert closed[0]['incident'] == incident
            server.wait_events('operator.told', 2, text='over')
            assert ask(server, 'incidents') == []
            row, = ask(server, 'incidents', '--all')
            assert row['state'] == 'over' and row['waiting'] == 0 and row['successes_since'] == 1, row
            assert len(server.wait_mails('alice', 4, 'home.example')) == 4 and len(told(server, 'over')) == 1
            assert server.metric('holdfast_incidents') == 0


def mail_path_fails():
    """The operator's own mailbox lies behind the broken next hop: the command tells, and the mail waits in the queue."""
    with NextHop(changing({'rcpt': DOWN})) as hop:
        server = FaultServer(relay(hop.port) + MARKS + 'operator { mail = "root@far.example"  command = "{folder}/tell" }\n', start=False)
        recorder(server)
        server.start()
        with server:
            Mail(to='x@far.example').play(server)
            wait_until('the command', lambda: told(server, 'notice') and told(server, 'sustained') and told(server, 'escalated'))
            server.wait_events('operator.told', 3, filter='mail')
            waiting = [row['to'] for row in ask(server, 'queue')]
            assert waiting.count('root@far.example') == 3, waiting
            # What waits for the same reason is the same incident: the summaries make no other.
            assert len(ask(server, 'incidents', '--all')) == 1


def command_hangs():
    """A program that never ends is ended, and the mail is not kept back by it."""
    with NextHop(changing({'rcpt': DOWN})) as hop:
        server = FaultServer(relay(hop.port) + MARKS.replace('4s', '1h').replace('6s', '2h') +
                             'operator { mail = "alice@home.example"  command = "{folder}/tell"  timeout = 300ms }\n', start=False)
        recorder(server, 'echo $$ > "$0.pid"; sleep 600')
        server.start()
        with server:
            Mail(to='x@far.example').play(server)
            server.wait_mails('alice', 1, 'home.example')
            wait_until('the note', lambda: any('took too long' in line for line in server.lines))
            with open(server.folder + '/tell.pid') as file:
                pid = int(file.read())
            wait_until('its end', lambda: not os.path.exists(f'/proc/{pid}'))
            row, = ask(server, 'incidents')
            assert row['told'] == {'mail': 'notice', 'command': ''}, row
            assert server.run('config', 'check')[0] == 0


def wrong_settings():
    server = FaultServer('operator { command = "tell me" }\nincidents { notice = 5h }\n', start=False)
    code, _, error = server.run('config', 'check')
    assert code == 1 and 'whole path of a program' in error and 'have to rise' in error, error


# ------------------------------------------------------------------ receiving

def receiving():
    port = free_port()
    with FaultServer(f'filter av {{ speaks = clamd  address = "127.0.0.1:{port}"  timeout = 2s }}\n{MARKS}') as server:
        for number in range(3):
            reply, _ = Mail(sender=f'a{number}@[127.0.0.1]').play(server)
            assert reply.code == 451, reply
        opened = server.wait_events('incident.open')
        assert opened[0]['cause'] == 'filter.unreachable' and opened[0]['side'] == 'ours' and opened[0]['filter'] == 'av', opened
        server.wait_events('incident.mark', 3)
        wait_until('the gauge, which follows the line', lambda: server.metric('holdfast_incidents', state='escalated') == 1)
        code, text, _ = server.run('why', '--in')
        for words in ('By dependency:', 'av: 3 deferred, 0 came back', 'By client network:', '127.0.0.0/24', 'ESCALATED',
                      'holdfast filter test av', 'means:', 'side: ours'):
            assert words in text, (words, text)
        assert 'escalated' in server.run('status')[1]
        with NextHop(clamd, port):
            for number in range(3):
                expect_healed(server, Mail(sender=f'a{number}@[127.0.0.1]'))
            server.wait_events('incident.closed')
        code, text, _ = server.run('why', '--in')
        assert '3 came back' in text and 'What is wrong now' not in text, text


def clamd(hop):
    """Enough of clamd: PONG, and OK for any stream."""
    data = b''
    while True:
        piece = hop.socket.recv(65536)
        if not piece:
            return
        data += piece
        if data.startswith(b'zPING\0') or data.startswith(b'PING\n') or data.startswith(b'nPING\n'):
            hop.raw(b'PONG\0' if data[:1] == b'z' else b'PONG\n')
            return
        if data.endswith(b'\0\0\0\0') and len(data) > 12:
            hop.raw(b'stream: OK\0')
            return


# ------------------------------------------------------------------ dialogues

def transcripts():
    with NextHop(changing({'data': '451 4.3.2 System not accepting messages'})) as hop:
        with FaultServer(relay(hop.port, '1h') + f'filter av {{ speaks = clamd  address = "127.0.0.1:{free_port()}" }}\n'
                         'domain "free.example" { users = "file:{folder}/users"  deliver = "maildir:{folder}/mail/{domain}/{user}" }\n') as server:
            reply, _ = Mail(to='alice@home.example', body='the secret body').play(server)
            assert reply.code == 451
            session = server.wait_events('message.deferred')[0]['session']
            code, text, _ = server.run('why', '--transcript', session)
            assert code == 0 and '< MAIL FROM:<a@[127.0.0.1]>' in text and '> 451 4.3.0' in text, text
            assert 'a message of' in text and 'secret' not in text, text
            assert server.run('why', '--transcript', '0000000000001')[0] == 1
    with NextHop(changing({'data': '451 4.3.2 System not accepting messages'})) as hop:
        with FaultServer(relay(hop.port, '1h')) as server:
            Mail(to='x@far.example', body='the secret body').play(server)
            message = server.wait_events('delivery.deferred')[0]['message']
            code, text, _ = server.run('why', '--transcript', message)
            for words in ('connected to 127.0.0.1', '< 220 hop ESMTP', '> EHLO mx.home.example', '> RCPT TO:<x@far.example>',
                          '< 451 4.3.2 System not accepting messages'):
                assert words in text, (words, text)
            assert 'secret' not in text


class Tracer:
    def __init__(self, server, *words):
        self.process = subprocess.Popen([HOLDFAST, 'trace', *words, '-c', server.config], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                        text=True)
        assert 'tracing' in self.process.stderr.readline()

    def lines_until(self, words):
        lines = []
        while True:
            line = self.process.stdout.readline()
            assert line, f'the trace ended: {lines}'
            lines.append(line.rstrip('\n'))
            if words in line:
                return lines

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.communicate()


def tracing():
    password = base64.b64encode(b'\0user@home.example\0secretpassword').decode()
    with NextHop(changing({})) as hop:
        with FaultServer(relay(hop.port) + 'listen submission { address = "127.0.0.1:0"  kind = submission }\nauth { without_tls = yes }\n') as server:
            with Tracer(server, 'in') as incoming, Tracer(server, 'out', '--dest', 'far.example') as outgoing, \
                    Tracer(server, 'in', '--client', '127.0.0.77') as other:
                with Client(server.address('submission')) as client:
                    client.command('EHLO c.example')
                    client.command('AUTH PLAIN ' + password)
                    client.command('AUTH LOGIN')
                    client.command(base64.b64encode(b'user@home.example').decode())
                    client.command(base64.b64encode(b'secretpassword').decode())
                    client.command('secretpassword')
                    client.command('QUIT')
                Mail(to='x@far.example', body='hidden body').play(server)
                Mail(to='alice@home.example', source='127.0.0.77').play(server)
                seen = '\n'.join(incoming.lines_until('RCPT TO:<alice'))
                for words in ('> 220 mx.home.example', '< EHLO c.example', '< AUTH PLAIN [left out]', '< AUTH LOGIN', 'left out',
                              '< MAIL FROM:<a@[127.0.0.1]>', 'a message of'):
                    assert words in seen, (words, seen)
                for secret in (password, 'secretpassword', base64.b64encode(b'secretpassword').decode(), 'hidden',
                               base64.b64encode(b'user@home.example').decode()):
                    assert secret not in seen, (secret, seen)
                sent = '\n'.join(outgoing.lines_until('< 250 taken'))
                assert '> RCPT TO:<x@far.example>' in sent and 'hidden' not in sent, sent
                only = other.lines_until('RCPT TO:<alice')
                assert all(' 127.0.0.77:' in line for line in only), only
            assert server.run('trace', 'sideways')[0] == 2
            assert server.run('trace', 'in', '--client', 'nobody')[0] == 1
            slow_reader(server)


def slow_reader(server):
    """Who asks for a trace and does not read is dropped; mail goes on."""
    with socket.socket(socket.AF_UNIX) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(server.folder + '/spool/control')
        client.sendall(b'{"do":"trace","direction":"in"}\n')
        assert client.recv(100).startswith(b'{"tracing"')
        with Client(server.address()) as talker:
            talker.command('EHLO c.example')
            for _ in range(40):
                talker.send(b'NOOP ' + b'x' * 400 + b'\r\n' if False else b'NOOP\r\n' * 500)
                talker.replies(500)
        client.settimeout(30)
        data = b''
        while True:     # to the end: the server closes it
            piece = client.recv(65536)
            if not piece:
                break
            data += piece
        assert len(data) < 40 * 500 * 2 * 150, 'nothing was lost, so nobody was slow'


# ------------------------------------------------------------------ top

def top():
    import fcntl
    import pty
    import struct
    import termios
    with NextHop(changing({'rcpt': DOWN})) as hop, FaultServer(relay(hop.port) + MARKS) as server:
        Mail(to='x@far.example').play(server)
        server.wait_events('incident.open')
        for end in ('q', 'signal', 'server'):
            master, slave = pty.openpty()
            fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack('HHHH', 30, 100, 0, 0))
            before = termios.tcgetattr(slave)
            process = subprocess.Popen([HOLDFAST, 'top', '-c', server.config], stdin=slave, stdout=slave, stderr=slave)
            screen = b''
            while b'remote.deferred' not in screen or b'Destinations' not in screen:
                screen += os.read(master, 65536)
            assert b'\x1b[?1049h' in screen and termios.tcgetattr(slave) != before
            if end == 'q':
                os.write(master, b'q')
            elif end == 'signal':
                process.send_signal(signal.SIGTERM)
            else:
                server.stop()
            code = process.wait(60)
            assert code == (75 if end == 'server' else 0), (end, code)
            os.set_blocking(master, False)
            wait_until('its last bytes', lambda: b'\x1b[?1049l' in (rest := drain(master)) or rest.endswith(b'l'))
            assert termios.tcgetattr(slave) == before, f'{end}: the terminal is left changed'
            os.close(master)
            os.close(slave)


def drain(master):
    data = b''
    try:
        while True:
            data += os.read(master, 65536)
    except OSError:
        return data


def main():
    checks.run('each mark is told once, by mail and by command; a restart goes on; the end is told', marks)
    checks.run('the command tells when mail is what fails', mail_path_fails)
    checks.run('a command that hangs is ended', command_hangs)
    checks.run('wrong settings are refused', wrong_settings)
    checks.run('receiving: opened, marked, and over when the filter is back', receiving)
    checks.run('transcripts of both sides, without the body', transcripts)
    checks.run('live traces, without passwords and bodies; a slow reader is dropped', tracing)
    checks.run('top draws, and leaves the terminal as it was', top)
    return checks.done()


if __name__ == '__main__':
    raise SystemExit(main())
