#!/usr/bin/env python3
"""Rules of docs/security.md that no other test holds: secrets and bodies stay out of what is written down, what others say
stays data, and TLS is of today."""
import base64
import json
import os
import socket
import sqlite3
import ssl
import subprocess
import threading
import urllib.error
import urllib.request
import warnings

from lib import HOLDFAST, Checks, Client, Server, wait_until
from lib_hop import NextHop

checks = Checks()
warnings.simplefilter('ignore', DeprecationWarning)  # old versions of TLS are offered on purpose
PASSWORD, BODY = 'CanaryPassword7391', 'CanaryBody5528'
HOSTILE = '<script>alert("x")</script>\x1b]0;owned\x07\x1b[2J\x00\x7f'


def free_port():
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return probe.getsockname()[1]


def plain(name, password):
    return base64.b64encode(f'\0{name}\0{password}'.encode()).decode()


def written_down(server):
    """{name: text} of all that is no message: the journal, the page's sources, each database as its rows, each command's words."""
    found = {'journal': '\n'.join(server.lines)}
    for name in os.listdir(server.folder + '/spool'):
        path = os.path.join(server.folder, 'spool', name)
        if not os.path.isfile(path):
            continue
        with open(path, 'rb') as file:
            if file.read(15) != b'SQLite format 3':
                continue
        database = sqlite3.connect(path)
        found[name] = '\n'.join(database.iterdump())
        database.close()
    for words in (('why', '--in'), ('queue',), ('status',), ('status', '--json'), ('queue', '--json')):
        found[' '.join(words)] = ''.join(map(str, server.run(*words)[1:]))
    return found


def secrets():
    """AUTH in all its forms, right and wrong, bodies accepted, deferred, refused and bounced."""
    with NextHop(lambda hop: (hop.say('220 hop'), hop.serve(dot='451 later'))) as hop:
        with Server(extra=f'route "far.example" {{ via = "smtp:127.0.0.1:{hop.port}" }}\n', start=False) as server:
            with open(server.config) as file:
                text = file.read()
            with open(server.config, 'w') as file:
                file.write(text.replace('level = info', 'level = debug'))
            server.start()
            def login(lines, name='user@rcpt.test', password='secretpassword'):
                with Client(server.address('submissions'), tls=True) as client:
                    client.command('EHLO c.example')
                    for line in lines:
                        reply = client.command(line)
                    if reply.code != 235:
                        return reply
                    client.command('MAIL FROM:<user@rcpt.test>')
                    client.command('RCPT TO:<somebody@far.example>')
                    client.command('DATA')
                    return client.command(f'Subject: x\r\n\r\n{BODY}\r\n.'.encode())

            wrong = base64.b64encode(PASSWORD.encode()).decode()
            name = base64.b64encode(b'user@rcpt.test').decode()
            for lines in ([f'AUTH PLAIN {plain("user@rcpt.test", PASSWORD)}'], ['AUTH PLAIN', plain('user@rcpt.test', PASSWORD)],
                          ['AUTH LOGIN', name, wrong], [f'AUTH LOGIN {name}', wrong]):
                checks.ok(f'{lines[0].split()[1]} with a wrong password in {len(lines)} lines', login(lines).code == 535)
            reply = login([f'AUTH PLAIN {plain("user@rcpt.test", "secretpassword")}'])
            checks.ok('a right one sends', reply.code == 250, reply)
            server.wait_events('delivery.deferred', 1)
            with Client(server.address('smtp')) as client:
                client.command('EHLO c.example')
                for end in ('\r\n.', '\nbare\r\n.'):  # one accepted, one refused
                    client.command('MAIL FROM:<a@b.example>')
                    client.command('RCPT TO:<alice@rcpt.test>')
                    client.command('DATA')
                    client.command(f'Subject: x\r\n\r\n{BODY}{end}'.encode())
                client.command(f'{BODY} is no command')
            server.wait_mails('alice', 1)
            found = written_down(server)
            forms = (PASSWORD, 'secretpassword', wrong, plain('user@rcpt.test', PASSWORD), plain('user@rcpt.test', 'secretpassword'),
                     base64.b64encode(b'secretpassword').decode())
            for place, text in found.items():
                checks.ok(f'no password in {place}', not [form for form in forms if form in text], [form for form in forms if form in text])
                checks.ok(f'no body in {place}', f'{BODY}\r' not in text and f'{BODY}\n' not in text and text.count(BODY) <= text.count(f'{BODY} is no command'))
            checks.ok('the journal, the history and the index were looked at', len(found) >= 7, sorted(found))


class Words:
    """Accepts, reads for a moment and answers with the given bytes."""

    def __init__(self, answer):
        self.answer = answer
        self.listener = socket.create_server(('127.0.0.1', 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(5)
                try:
                    while not connection.recv(65536).endswith(b'\0\0\0\0'):
                        pass
                    connection.sendall(self.answer)
                except OSError:
                    continue

    def close(self):
        self.listener.close()


def is_clean(text):
    """No control characters but the ends of lines."""
    return not [char for char in text if (ord(char) < 32 and char not in '\r\n\t') or ord(char) == 127]


def hostile_words():
    """A filter and a next hop whose words are mark-up, terminal codes and NULs: they stay data wherever they are shown."""
    filter_of = Words(f'stream: {HOSTILE} FOUND\0'.encode())
    web = free_port()
    with NextHop(lambda hop: (hop.raw(b'220 hop\r\n'), hop.serve(rcpt=f'451 4.3.0 {HOSTILE}' + 'x' * 3000))) as hop:
        with Server(extra=f'web {{ address = "127.0.0.1:{web}" }}\nroute "far.example" {{ via = "smtp:127.0.0.1:{hop.port}" }}\nrelay {{ from = {{"127.0.0.0/8"}} }}\n'
                          f'filter clamav {{ speaks = clamd  address = "127.0.0.1:{filter_of.port}"  timeout = 5s  name_in_reply = yes }}\n') as server:
            with Client(server.address('smtp')) as client:
                client.command('EHLO c.example')
                client.command('MAIL FROM:<a@b.example>')
                client.command('RCPT TO:<alice@rcpt.test>')
                client.command('DATA')
                reply = client.command(b'Subject: x\r\n\r\nx\r\n.')
                checks.ok("a filter's hostile words make one clean reply", reply.code in (451, 550, 554) and all(is_clean(line) for line in reply.lines), reply)
        with Server(extra=f'web {{ address = "127.0.0.1:{web}" }}\nroute "far.example" {{ via = "smtp:127.0.0.1:{hop.port}" }}\nrelay {{ from = {{"127.0.0.0/8"}} }}\n') as server:
            with Client(server.address('smtp')) as client:
                client.command('EHLO c.example')
                client.command('MAIL FROM:<a@b.example>')
                client.command('RCPT TO:<somebody@far.example>')
                client.command('DATA')
                message = client.command(b'Subject: x\r\n\r\nx\r\n.').lines[0].split()[-1]
            server.wait_events('delivery.deferred', 1)
            checks.ok('every line of the journal is one JSON object', all(json.loads(line) for line in server.lines if line))
            checks.ok('without control characters', all(is_clean(line) for line in server.lines))
            for words in (('why', message), ('queue',), ('status',)):
                out = server.run(*words)[1]
                checks.ok(f'{words[0]} prints no control characters', is_clean(out), ascii(out[:300]))
            for path in ('/', '/metrics', '/health'):
                try:
                    with urllib.request.urlopen(f'http://127.0.0.1:{web}{path}', timeout=20) as answer:
                        page = answer.read().decode()
                except urllib.error.HTTPError as fault:
                    page = fault.read().decode()
                checks.ok(f'{path} has no mark-up of others', '<script>alert' not in page and is_clean(page), page[:200])
    filter_of.close()


# CSI as one character (C1), override and isolate of direction, a separator of lines, no width, an escape sequence, a bell.
TURNS = '\u009b2J\u202e\u2066\u2028\u200b\ufeff'


def acts(text):
    """Characters that act on a terminal, turn the text beside them or cannot be seen."""
    return sorted({ascii(char) for char in text if (ord(char) < 32 and char not in '\n\t') or 0x7f <= ord(char) < 0xa0 or ord(char) in (0x61c, 0x180e, 0xfeff)
                   or 0x200b <= ord(char) <= 0x200f or 0x2028 <= ord(char) <= 0x202e or 0x2060 <= ord(char) <= 0x206f})


def terminals():
    """Addresses and words of others in all that is printed: the journal, each command, as text and as JSON, mailq, the page."""
    web = free_port()
    replies = {'rcpt': f'450 4.7.1 {TURNS} \x1b[31m\x07 words'}
    with NextHop(lambda hop: (hop.say('220 hop ESMTP'), hop.serve(extensions=('PIPELINING', 'SMTPUTF8', '8BITMIME'), changing=replies))) as hop:
        with Server(extra=f'web {{ address = "127.0.0.1:{web}" }}\nrelay {{ from = {{"127.0.0.0/8"}}  via = "smtp:127.0.0.1:{hop.port}" }}\n') as server:
            with Client(server.address('smtp')) as client:
                client.command('EHLO c.example')
                client.command(f'MAIL FROM:<"{TURNS}a"@x.example> SMTPUTF8'.encode())
                client.command(f'RCPT TO:<"b{TURNS}"@far.example>'.encode())
                client.command('DATA')
                message = client.command(b'Subject: x\r\n\r\nx\r\n.').lines[0].split()[-1]
            server.wait_events('delivery.deferred', 1)
            checks.ok('the journal has the words, and nothing that acts', 'u202e' in server.lines[-1] and not acts('\n'.join(server.lines)), acts('\n'.join(server.lines)))
            for words in (('status',), ('queue',), ('queue', '--json'), ('queue', '--by', 'dest'), ('why', message), ('why', message, '--json'), ('why', '--dest', 'far.example'),
                          ('why', '--transcript', message), ('incidents',), ('explain', replies['rcpt'])):
                out = server.run(*words)[1]
                checks.ok(f'{" ".join(words[:2])[:20]} prints nothing that acts', out and not acts(out), acts(out))
                if '--json' in words:
                    checks.ok('and is the same text for who reads JSON', TURNS in json.dumps(json.loads(out), ensure_ascii=False), out[:300])
            out = subprocess.run(['bash', '-c', f'exec -a mailq {HOLDFAST} -C {server.config}'], capture_output=True, text=True).stdout
            checks.ok('mailq prints nothing that acts', 'words' in out and not acts(out), acts(out))
            with urllib.request.urlopen(f'http://127.0.0.1:{web}/', timeout=20) as answer:
                page = answer.read().decode()
            checks.ok('the page has nothing that acts', not acts(page), acts(page))


def handshake(address, oldest, newest, ciphers=None):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_ciphers(ciphers or 'ALL:@SECLEVEL=0')
    context.minimum_version, context.maximum_version = oldest, newest
    with socket.create_connection(address, timeout=20) as connection:
        try:
            with context.wrap_socket(connection) as stream:
                return stream.version(), stream.cipher()[0], stream.compression()
        except (ssl.SSLError, ConnectionResetError, OSError):
            return None


def tls():
    version = ssl.TLSVersion
    with Server() as server:
        address = server.address('smtps')
        for old in (version.TLSv1, version.TLSv1_1):
            checks.ok(f'{old.name} is refused', handshake(address, old, old) is None)
        for new in (version.TLSv1_2, version.TLSv1_3):
            got = handshake(address, new, new)
            checks.ok(f'{new.name} is served, without compression, with forward secrecy',
                      got and got[2] is None and (got[0] == 'TLSv1.3' or got[1].startswith('ECDHE')), got)
        for weak in ('RC4', '3DES', 'NULL', 'aNULL', 'EXPORT', 'kRSA'):
            try:
                got = handshake(address, version.TLSv1_2, version.TLSv1_2, f'{weak}:@SECLEVEL=0')
            except ssl.SSLError:
                continue  # this client has none of them
            checks.ok(f'{weak} is refused', got is None, got)
        done = subprocess.run(['openssl', 's_client', '-connect', f'{address[0]}:{address[1]}', '-tls1_2', '-crlf'], input='R\nQUIT\n',
                              capture_output=True, text=True, timeout=30)
        checks.ok('renegotiation is refused', 'no renegotiation' in done.stderr + done.stdout or done.returncode != 0, done.stderr[-300:])
        # RSA through the keeper: both paddings.
        subprocess.run(['openssl', 'req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-keyout', server.folder + '/key.pem', '-out', server.folder + '/cert.pem',
                        '-days', '30', '-subj', '/CN=mx.test'], check=True, stderr=subprocess.DEVNULL)
        checks.ok('an RSA key comes by a reload', server.run('reload')[0] == 0)
        for new in (version.TLSv1_2, version.TLSv1_3):
            checks.ok(f'RSA signs for {new.name}', handshake(address, new, new) is not None)
        got = handshake(address, version.TLSv1_2, version.TLSv1_2, 'kRSA:@SECLEVEL=0')
        checks.ok('a key exchange by RSA is refused', got is None, got)
        wait_until('the server to live', server.alive)


for test in (secrets, hostile_words, terminals, tls):
    try:
        test()
    except (AssertionError, OSError, ValueError, KeyError, IndexError) as fault:
        checks.ok(test.__name__, False, f'{type(fault).__name__}: {fault}')
raise SystemExit(checks.done())
