"""For the fault tests: a server with a page of metrics, and one check of reply, journal and metric together.

    with FaultServer('checks { sender_domain = require }', users='sqlite:{folder}/users.db') as server:
        expect(server, Mail(sender='a@sick.example'), '451 4.1.8', 'dns.sender.temperror', 'mail')

Only what is configured in `extra` differs from one plain domain, home.example, whose mail goes into Maildirs.
"""
import json
import os
import re
import socket
import urllib.request

from lib import Client, Server, wait_until

EICAR = 'X5O!P%@AP[4\\PZX54(P^)7CC)7}$EICAR-STANDARD-' + 'ANTIVIRUS-TEST-FILE!$H+H*'  # in two, for scanners of this file


def free_port(kind=socket.SOCK_STREAM):
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(('127.0.0.1', 0))
        return probe.getsockname()[1]


def queued(spool):
    """How many messages wait, as the control socket of that spool says: it is of this moment, the metric of the last second. None:
    it says nothing."""
    with socket.socket(socket.AF_UNIX) as asked:
        asked.settimeout(30)
        try:
            asked.connect(os.path.join(spool, 'control'))
            asked.sendall(b'{"do":"status"}\n')
            return json.loads(b''.join(iter(lambda: asked.recv(65536), b'')))['queue']['messages']
        except (OSError, ValueError, KeyError):
            return None


class FaultServer(Server):
    """web: the page's port; 0: whichever the kernel gives at each start."""

    def __init__(self, extra='', users='file:{folder}/users', aliases='', web=None, **more):
        self.web = ('127.0.0.1', free_port() if web is None else web)
        aliases = f'aliases = "{aliases}"' if aliases else ''
        text = ('hostname = "mx.home.example"\nspool = "{folder}/spool"\n'
                'listen smtp { address = "127.0.0.1:0" }\n'
                f'web {{ address = "127.0.0.1:{self.web[1]}" }}\n'
                f'domain "home.example" {{ users = "{users}"  {aliases}\n'
                '    deliver = "maildir:{folder}/mail/{domain}/{user}" }\n'
                'log { format = json  level = info }\n' + extra + '\n')
        super().__init__(text=text, **more)

    def web_port(self):
        def found():
            return re.findall(r'page and metrics on http://[0-9.]+:(\d+)/', '\n'.join(self.lines))
        return self.web[1] or int(self._wait('the address of the page', found)[-1])

    def metric(self, name, **labels):
        """The sum of the samples of that name whose labels are as given; 0 when there is none."""
        with urllib.request.urlopen(f'http://127.0.0.1:{self.web_port()}/metrics', timeout=30) as page:
            text = page.read().decode()
        total = 0.0
        for line in text.split('\n'):
            match = re.match(r'(\w+)(?:\{(.*)\})? (\S+)$', line)
            if match and match.group(1) == name:
                found = dict(re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', match.group(2) or ''))
                if all(found.get(key) == value for key, value in labels.items()):
                    total += float(match.group(3))
        return total


class FromAddress(Client):
    """A client whose connection comes from another address of the loopback network."""

    def __init__(self, address, source):
        real = socket.create_connection
        connection = real(address, timeout=60, source_address=(source, 0))
        self.socket, self.pending, self.one_by_one = connection, b'', False
        self.banner = self.reply()


class Mail:
    """One transaction; `source` is the client's address, `identity` its Message-ID."""

    def __init__(self, sender='a@[127.0.0.1]', to='alice@home.example', body='hello', source='127.0.0.1', identity=None):
        self.sender, self.to, self.body, self.source, self.identity = sender, to, body, source, identity

    def text(self):
        named = f'Message-ID: {self.identity}\r\n' if self.identity else ''
        return f'From: <a@client.example>\r\nTo: <{self.to}>\r\n{named}Subject: test\r\n\r\n{self.body}\r\n'

    def play(self, server, before_dot=None):
        """The first reply of 4yz or 5yz, else the last one, and the stage it came at."""
        with FromAddress(server.address(), self.source) as client:
            if client.banner.code != 220:
                return client.banner, 'connect'
            for stage, line in (('ehlo', 'EHLO client.example'), ('mail', f'MAIL FROM:<{self.sender}>'),
                                ('rcpt', f'RCPT TO:<{self.to}>'), ('data', 'DATA')):
                reply = client.command(line)
                if reply.code >= 400:
                    return reply, stage
            if before_dot:
                before_dot()
            client.send(self.text() + '.\r\n')
            reply = client.reply()
            client.command('QUIT')
            return reply, 'dot'


def family(reply):
    return ('holdfast_deferrals_total', 'message.deferred') if reply.startswith('4') else ('holdfast_refusals_total', 'message.refused')


def expect(server, mail, reply, cause, stage, play=None):
    """The reply with its enhanced code and cause, one journal line more with the same, and one count more."""
    metric, event = family(reply)
    counted = server.metric(metric, cause=cause)
    row = {'cause': cause, 'code': int(reply[:3])}
    told = sum(1 for one in server.events(event) if all(one.get(key) == value for key, value in row.items()))
    got, where = (play or mail.play)(server)
    line = got.lines[-1]
    assert line.startswith(reply + ' ') and line.endswith(f'({cause})'), f'wanted {reply} ... ({cause}), got {got.lines}'
    assert where == stage, f'wanted it at {stage}, got it at {where}'
    events = server.wait_events(event, told + 1, **row)
    now = server.metric(metric, cause=cause)
    assert now == counted + 1, f'{metric}{{cause="{cause}"}} went from {counted} to {now}'
    return events[-1]


def expect_accepted(server, mail, play=None):
    """250 at the dot, and the message in the Maildir."""
    user = mail.to.split('@')[0]
    counted = server.metric('holdfast_messages_accepted_total')
    there = len(server.mails(user, 'home.example'))
    got, where = (play or mail.play)(server)
    assert got.code == 250 and where == 'dot', f'wanted 250 at the dot, got {got.lines} at {where}'
    server.wait_mails(user, there + 1, 'home.example')
    now = server.metric('holdfast_messages_accepted_total')
    assert now == counted + 1, f'holdfast_messages_accepted_total went from {counted} to {now}'
    return got


def expect_healed(server, mail):
    """Sends again as a client would until it is taken; each answer before that has to be a 4yz."""
    def again():
        reply, _ = mail.play(server)
        assert reply.code == 250 or 400 <= reply.code < 500, f'got {reply.lines}'
        return reply.code == 250
    wait_until('the first 250 after the fault', again)


def write_file(server, name, text):
    """Replaces a file of the server's folder at once, as an editor does."""
    path = os.path.join(server.folder, name)
    with open(path + '.new', 'w') as file:
        file.write(text)
    os.rename(path + '.new', path)
