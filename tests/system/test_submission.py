#!/usr/bin/env python3
"""Submission: who may log in and how, whose addresses a user may send from, and what is said while a backend is down.

Every case is a real session over TLS. The backends are the users file, SQLite and Dovecot's own auth server (stopped,
SIGSTOPped); SCRAM's client is written down here, and for channel binding it is gsasl's own program."""
import base64
import grp
import hashlib
import hmac
import os
import pwd
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import tempfile
import threading

from lib import HASHES, PATIENCE_S, Checks, Client, Closed, Server, wait_until

HASH = HASHES['user']                   # of "secretpassword"
SCRAM_KEYS = ('SCRAM-SHA-256$4096:MDEyMzQ1Njc4OWFiY2RlZg==$Xzcxp8pR/VYhs3ezUhZcbISS7I0/Hv7eOWWD9HJRjHU=:'
              'zjzgU+nj5Y2b5hJjS8gfESFZ/t6elbKdmaJaguOioHc=')     # of "scrampassword"
USERS = f"""# accounts
alice:{HASH}:senders=sales@other.example, @lists.example
bob:{HASH}
carol:scram={SCRAM_KEYS}
dave:{SCRAM_KEYS}
locked:!{HASH}
gone:{HASH}:disabled=yes
broken:$nosuch$hash
root:{HASH}:senders=*
nobody
"""
ALIASES = 'info: alice\nteam: alice, bob\nboss: bob\n'
SETTINGS = """
domain "auth.test" {{ users = "file:{0}/accounts"  aliases = "file:{0}/aliases"  deliver = "maildir:{0}/mail/{{domain}}/{{user}}" }}
domain "sql.test" {{ users = "sqlite:{0}/users.db?table=users"  deliver = "maildir:{0}/mail/{{domain}}/{{user}}" }}
domain "dovecot.test" {{ passwords = "dovecot:unix:{0}/dovecot/auth"  deliver = "maildir:{0}/mail/{{domain}}/{{user}}" }}
domain "ldap.test" {{ users = "ldap://127.0.0.1:9/dc=test?mail?sub?(mail={{address}})"  deliver = "maildir:{0}/mail/{{domain}}/{{user}}" }}
auth {{ domain = "auth.test"  scram = yes  delay = 50ms }}
route "elsewhere.example" {{ via = "smtp:127.0.0.1:9" }}
"""


def b64(data):
    return base64.b64encode(data.encode() if isinstance(data, str) else data).decode()


def plain(user, password, act_as=''):
    return b64(f'{act_as}\0{user}\0{password}')


def expect(reply, code, text=''):
    assert reply.code == code and text in reply.lines[-1], f'expected {code} {text!r}, read {reply.lines}'
    return reply


class House:
    def __init__(self, server):
        self.server = server

    def client(self, name='submissions', hello=True):
        client = Client(self.server.address(name), tls=name == 'submissions')
        if hello:
            expect(client.command('EHLO c.test'), 250)
        return client

    def login(self, user='alice', password='secretpassword'):
        client = self.client()
        expect(client.command('AUTH PLAIN ' + plain(user, password)), 235, '2.7.0')
        return client


CASES = {}


def case(function):
    CASES[function.__name__.replace('_', ' ')] = function
    return function


# ---------------------------------------------------------------- what is offered, and when

@case
def nothing_is_offered_in_clear(house):
    with house.client('submission', hello=False) as client:
        lines = client.command('EHLO c.test').lines
        assert not any('AUTH' in line for line in lines) and any('STARTTLS' in line for line in lines), lines
        expect(client.command('AUTH PLAIN ' + plain('alice', 'secretpassword')), 530, '5.7.0')
        expect(client.command('MAIL FROM:<alice@auth.test>'), 530, '5.7.0')


@case
def offered_after_starttls(house):
    with house.client('submission') as client:
        expect(client.command('STARTTLS'), 220)
        client.start_tls()
        expect(client.command('AUTH PLAIN ' + plain('alice', 'secretpassword')), 503)   # no EHLO yet
        lines = client.command('EHLO c.test').lines
        offer = [line[4:] for line in lines if 'AUTH' in line]
        assert offer == ['AUTH PLAIN LOGIN SCRAM-SHA-256 SCRAM-SHA-256-PLUS'], lines
        expect(client.command('AUTH PLAIN ' + plain('alice', 'secretpassword')), 235)
        expect(client.command('STARTTLS'), 503)


@case
def not_on_port_25(house):
    with Client(house.server.address('smtps'), tls=True) as client:
        lines = client.command('EHLO c.test').lines
        assert not any('AUTH' in line for line in lines), lines
        expect(client.command('AUTH PLAIN ' + plain('alice', 'secretpassword')), 502)


@case
def nothing_without_a_login(house):
    with house.client() as client:
        expect(client.command('MAIL FROM:<alice@auth.test>'), 530, 'auth.required')


# ---------------------------------------------------------------- mechanisms

@case
def plain_by_challenge_and_a_name_with_its_domain(house):
    with house.client() as client:
        expect(client.command('AUTH plain'), 334)
        expect(client.command(plain('alice@auth.test', 'secretpassword', 'alice@auth.test')), 235)
        expect(client.command('AUTH PLAIN ' + plain('alice', 'secretpassword')), 503)


@case
def login_by_two_challenges(house):
    with house.client() as client:
        assert base64.b64decode(expect(client.command('AUTH LOGIN'), 334).lines[0][4:]) == b'Username:'
        assert base64.b64decode(expect(client.command(b64('bob')), 334).lines[0][4:]) == b'Password:'
        expect(client.command(b64('secretpassword')), 235)
    with house.client() as client:
        expect(client.command('AUTH LOGIN ' + b64('bob')), 334)
        expect(client.command(b64('wrong')), 535, '5.7.8')


@case
def pipelined_answers(house):
    with house.client() as client:
        client.send(f'AUTH LOGIN\r\n{b64("bob")}\r\n{b64("secretpassword")}\r\n')
        assert [client.reply().code for _ in range(3)] == [334, 334, 235]


@case
def who_is_refused(house):
    for user, password in (('alice', 'wrong'), ('alice', 'secretpasswordx'), ('nosuch', 'secretpassword'), ('nobody', ''), ('nobody', 'x'),
                           ('locked', 'secretpassword'), ('gone', 'secretpassword'), ('alice@nowhere.test', 'secretpassword'),
                           ('carol', 'secretpassword'), ('alice\x01', 'secretpassword'), ('alice', 'x' * 600)):
        with house.client() as client:
            reply = client.command('AUTH PLAIN ' + plain(user, password))
            assert reply.code == (501 if not password else 535), (user, reply)
            expect(client.command('MAIL FROM:<alice@auth.test>'), 530)
    with house.client() as client:      # acting for somebody else
        expect(client.command('AUTH PLAIN ' + plain('alice', 'secretpassword', 'bob')), 535)


@case
def plain_against_scram_keys(house):
    for user in ('carol', 'dave'):
        with house.client() as client:
            expect(client.command('AUTH PLAIN ' + plain(user, 'scrampassword')), 235)


@case
def a_broken_hash_is_our_fault(house):
    with house.client() as client:
        expect(client.command('AUTH PLAIN ' + plain('broken', 'x')), 454, '4.7.0')
        expect(client.command('AUTH PLAIN ' + plain('alice', 'secretpassword')), 235)


@case
def malformed_and_cancelled(house):
    for line, code in (('AUTH', 501), ('AUTH DIGEST-MD5', 504), ('AUTH PLAIN !!!', 501), ('AUTH PLAIN =', 501),
                       ('AUTH PLAIN ' + b64('no nul'), 501), ('AUTH PLAIN ' + b64('a\0b\0c\0d'), 501),
                       ('AUTH SCRAM-SHA-256 ' + b64('garbage'), 501)):
        with house.client() as client:
            expect(client.command(line), code)
            expect(client.command('NOOP'), 250)
    for mechanism in ('PLAIN', 'LOGIN', 'SCRAM-SHA-256'):
        with house.client() as client:
            expect(client.command('AUTH ' + mechanism), 334)
            expect(client.command('*'), 501, 'auth.cancelled')
            expect(client.command('AUTH PLAIN ' + plain('alice', 'secretpassword')), 235)


@case
def not_within_a_transaction(house):
    with house.login() as client:
        expect(client.command('MAIL FROM:<alice@auth.test>'), 250)
        expect(client.command('AUTH PLAIN ' + plain('bob', 'secretpassword')), 503)


@case
def three_failures_end_the_session(house):
    with house.client() as client:
        expect(client.command('AUTH PLAIN ' + plain('alice', 'a')), 535)
        expect(client.command('AUTH PLAIN ' + plain('alice', 'b')), 535)
        expect(client.command('AUTH PLAIN ' + plain('alice', 'c')), 421, 'auth.failures')
        assert client.rest() == b''


@case
def many_at_once(house):
    """Hashes are computed two at a time; everyone gets his turn, and the right answer."""
    answers = [None] * 24

    def attempt(number):
        password = 'wrong' if number % 3 == 0 else 'secretpassword'
        with house.client() as client:
            answers[number] = client.command('AUTH PLAIN ' + plain('nosuch' if number % 6 == 0 else 'alice', password)).code

    threads = [threading.Thread(target=attempt, args=(number,)) for number in range(len(answers))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [535 if number % 3 == 0 else 235 for number in range(len(answers))], answers


# ---------------------------------------------------------------- SCRAM

def scram(client, user, password, wrong_proof=False):
    """The client's side of RFC 5802; the last reply, and whether the server proved itself."""
    first = f'n={user},r=clientnonce'
    server = base64.b64decode(expect(client.command('AUTH SCRAM-SHA-256 ' + b64('n,,' + first)), 334).lines[0][4:]).decode()
    parts = dict(part.split('=', 1) for part in server.split(','))
    salted = hashlib.pbkdf2_hmac('sha256', password.encode(), base64.b64decode(parts['s']), int(parts['i']))
    final = 'c=biws,r=' + parts['r']
    text = f'{first},{server},{final}'.encode()
    key = hmac.new(salted, b'Client Key', 'sha256').digest()
    signature = hmac.new(hashlib.sha256(key).digest(), text, 'sha256').digest()
    proof = bytes(a ^ b for a, b in zip(key, signature))
    if wrong_proof:
        proof = bytes(32)
    reply = client.command(b64(f'{final},p={b64(proof)}'))
    if reply.code != 334:
        return reply, False
    mine = hmac.new(hmac.new(salted, b'Server Key', 'sha256').digest(), text, 'sha256').digest()
    right = base64.b64decode(reply.lines[0][4:]).decode() == 'v=' + b64(mine)
    return client.command(''), right


@case
def scram_sha_256(house):
    for user in ('carol', 'dave', 'carol@auth.test'):
        with house.client() as client:
            reply, proved = scram(client, user, 'scrampassword')
            expect(reply, 235)
            assert proved, 'the server did not prove that it knows the key'
            expect(client.command('MAIL FROM:<%s@auth.test>' % user.split('@')[0]), 250)
    with house.client() as client:
        expect(scram(client, 'carol', 'wrong')[0], 535)
        expect(client.command('MAIL FROM:<carol@auth.test>'), 530)
    with house.client() as client:
        expect(scram(client, 'carol', 'scrampassword', wrong_proof=True)[0], 535)


@case
def scram_does_not_tell_who_exists(house):
    salts = set()
    for _ in range(2):
        with house.client() as client:
            server = expect(client.command('AUTH SCRAM-SHA-256 ' + b64('n,,n=nosuch,r=x')), 334).lines[0][4:]
            salts.add(re.search(r's=([^,]+)', base64.b64decode(server).decode()).group(1))
    assert len(salts) == 1, 'an unknown user has another salt each time'
    with house.client() as client:
        expect(scram(client, 'nosuch', 'scrampassword')[0], 535)


def scram_plus(house):
    host, port = house.server.address('submission')
    command = ['gsasl', '--client', '--smtp', f'--connect={host}:{port}', '--no-client-first', '--mechanism=SCRAM-SHA-256-PLUS',
               '--authentication-id=carol', '--password=scrampassword', '--authorization-id=', '--x509-ca-file=',
               '--hostname=mx.test', '--verbose']
    done = subprocess.run(command, input='QUIT\r\n', capture_output=True, text=True, timeout=PATIENCE_S)
    assert '235 2.7.0' in done.stdout + done.stderr, done.stdout + done.stderr


# ---------------------------------------------------------------- whose address

@case
def who_owns_what(house):
    for user, own, foreign in (
            ('alice', ['alice@auth.test', 'Alice@AUTH.test', 'alice+tag@auth.test', 'info@auth.test', 'team@auth.test', '',
                       'sales@other.example', 'any@lists.example'],
             ['bob@auth.test', 'boss@auth.test', 'alice@other.example', 'alice@rcpt.test', 'nosuch@auth.test', 'x@sub.lists.example']),
            ('bob', ['bob@auth.test', 'team@auth.test', 'boss@auth.test'], ['alice@auth.test', 'info@auth.test']),
            ('root', ['alice@auth.test', 'x@y.example'], [])):
        with house.login(user) as client:
            for sender in own:
                expect(client.command(f'MAIL FROM:<{sender}>'), 250)
                expect(client.command('RSET'), 250)
            for sender in foreign:
                expect(client.command(f'MAIL FROM:<{sender}>'), 553, 'sender.not_owned')


@case
def may_send_anywhere_and_is_named(house):
    server = house.server
    with house.login() as client:
        expect(client.command('MAIL FROM:<alice@auth.test> AUTH=<>'), 250)
        expect(client.command('RCPT TO:<x@elsewhere.example>'), 250)
        expect(client.command('RCPT TO:<bob@auth.test>'), 250)
        expect(client.command('DATA'), 354)
        client.send('Subject: sent\r\n\r\nhello\r\n.\r\n')
        expect(client.reply(), 250)
    mail = server.wait_mails('bob', 1, 'auth.test')[-1]
    received = mail.split(b'\r\nSubject')[0]
    assert b'with ESMTPSA' in received, received


@case
def secrets_stay_out_of_the_journal(house):
    server = house.server
    secrets = ('secretpassword', 'scrampassword', 'hunter2', b64('hunter2'), plain('alice', 'hunter2'), plain('alice', 'secretpassword'))
    with house.client() as client:
        expect(client.command('AUTH PLAIN ' + plain('alice', 'hunter2')), 535)
        expect(client.command('AUTH LOGIN'), 334)
        expect(client.command(b64('alice')), 334)
        expect(client.command(b64('hunter2')), 535)
    server.wait_events('message.refused', 1, cause='auth.failed')
    text = '\n'.join(server.lines)
    for secret in secrets:
        assert secret not in text, f'{secret} is in the journal'
    assert '"alice' in text or 'alice' in text


# ---------------------------------------------------------------- backends that are down

@case
def users_file_away(house):
    path = os.path.join(house.server.folder, 'accounts')
    os.rename(path, path + '.away')
    try:
        def deferred():
            with house.client() as client:
                return client.command('AUTH PLAIN ' + plain('alice', 'secretpassword')).code == 454
        wait_until('454 for a users file that is away', deferred)
    finally:
        os.rename(path + '.away', path)

    def back():
        with house.client() as client:
            return client.command('AUTH PLAIN ' + plain('alice', 'secretpassword')).code == 235
    wait_until('the users file to be read again', back)


@case
def sqlite_users(house):
    with house.client() as client:
        expect(client.command('AUTH PLAIN ' + plain('erin@sql.test', 'secretpassword')), 235)
        expect(client.command('MAIL FROM:<erin@sql.test>'), 250)
    with house.client() as client:
        expect(client.command('AUTH PLAIN ' + plain('erin@sql.test', 'wrong')), 535)
        expect(client.command('AUTH PLAIN ' + plain('nosuch@sql.test', 'wrong')), 535)
    path = os.path.join(house.server.folder, 'users.db')
    os.rename(path, path + '.away')
    try:
        with house.client() as client:
            expect(client.command('AUTH PLAIN ' + plain('erin@sql.test', 'secretpassword')), 454, 'auth.unavailable')
    finally:
        os.rename(path + '.away', path)


@case
def ldap_users_while_the_server_is_down(house):
    with house.client() as client:
        expect(client.command('AUTH PLAIN ' + plain('erin@ldap.test', 'secretpassword')), 454, 'auth.unavailable')
        expect(client.command('AUTH SCRAM-SHA-256 ' + b64('n,,n=erin@ldap.test,r=x')), 504, 'auth.mechanism')


# ---------------------------------------------------------------- Dovecot

DOVECOT = """
base_dir = {folder}/run
log_path = {folder}/log
protocols =
ssl = no
disable_plaintext_auth = no
auth_mechanisms = plain login scram-sha-256
auth_failure_delay = 0
default_internal_user = {user}
default_login_user = {user}
default_internal_group = {group}
passdb {{
  driver = passwd-file
  args = {folder}/passwd
}}
userdb {{
  driver = static
  args = uid=65534 gid=65534 home=/nonexistent
}}
service auth {{
  user = {user}
  unix_listener {folder}/auth {{
    mode = 0600
    user = {user}
  }}
}}
service anvil {{
  chroot =
}}
service stats {{
  chroot =
}}
"""


class Dovecot:
    """Debian's Dovecot with nothing but its auth service, on a socket in a folder of its own."""

    def __init__(self, folder):
        self.folder = folder
        self.process = None
        os.makedirs(folder, exist_ok=True)
        with open(os.path.join(folder, 'passwd'), 'w') as file:
            file.write('frank@dovecot.test:{PLAIN}frankspassword\n')
        own = pwd.getpwuid(os.getuid())
        with open(os.path.join(folder, 'dovecot.conf'), 'w') as file:
            file.write(DOVECOT.format(folder=folder, user=own.pw_name, group=grp.getgrgid(own.pw_gid).gr_name))

    def start(self):
        self.process = subprocess.Popen(['/usr/sbin/dovecot', '-F', '-c', os.path.join(self.folder, 'dovecot.conf')],
                                        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_until("Dovecot's auth socket", self.answers)

    def answers(self):
        try:
            with socket.socket(socket.AF_UNIX) as probe:
                probe.settimeout(5)
                probe.connect(os.path.join(self.folder, 'auth'))
                probe.sendall(b'VERSION\t1\t1\nCPID\t1\n')
                return b'VERSION' in probe.recv(4096)
        except OSError:
            return False

    def children(self):
        """The auth processes of this Dovecot, by its own process tree."""
        found = []
        for name in os.listdir('/proc'):
            if name.isdigit():
                try:
                    with open(f'/proc/{name}/stat') as file:
                        fields = file.read().rsplit(')', 1)
                    if int(fields[1].split()[1]) == self.process.pid and fields[0].endswith('(auth'):
                        found.append(int(name))
                except OSError:
                    pass
        return found

    def stop(self):
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(PATIENCE_S)


def dovecot_cases(house, checks):
    dovecot = Dovecot(os.path.join(house.server.folder, 'dovecot'))

    def attempt(user='frank@dovecot.test', password='frankspassword', how='PLAIN'):
        with house.client() as client:
            if how == 'PLAIN':
                return client.command('AUTH PLAIN ' + plain(user, password))
            expect(client.command('AUTH LOGIN'), 334)
            expect(client.command(b64(user)), 334)
            return client.command(b64(password))

    def knows():
        expect(attempt(), 235)
        expect(attempt(how='LOGIN'), 235)
        expect(attempt(password='wrong'), 535, 'auth.failed')
        expect(attempt(user='nosuch@dovecot.test'), 535)
        with house.login('frank@dovecot.test', 'frankspassword') as client:
            expect(client.command('MAIL FROM:<alice@auth.test>'), 553)
            expect(client.command('MAIL FROM:<frank@dovecot.test>'), 250)

    def scram_through():
        with house.client() as client:
            reply, proved = scram(client, 'frank@dovecot.test', 'frankspassword')
            expect(reply, 235)
            assert proved

    def is_stopped():
        dovecot.stop()
        expect(attempt(), 454, 'auth.unavailable')
        expect(attempt(password='wrong'), 454)
        dovecot.start()
        expect(attempt(), 235)

    def hangs():
        expect(attempt(), 235)
        stopped = dovecot.children()
        assert stopped, 'no auth process found'
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        try:
            expect(attempt(), 454, 'auth.unavailable')
        finally:
            for pid in stopped:
                os.kill(pid, signal.SIGCONT)
        expect(attempt(), 235)

    try:
        checks.run('dovecot not there yet', lambda: expect(attempt(), 454, 'auth.unavailable'))
        dovecot.start()
        checks.run('dovecot says who', knows)
        checks.run('scram through dovecot', scram_through)
        checks.run('dovecot stopped', is_stopped)
        checks.run('dovecot hangs', hangs)
    finally:
        dovecot.stop()


def prepare(folder):
    with open(os.path.join(folder, 'accounts'), 'w') as file:
        file.write(USERS)
    with open(os.path.join(folder, 'aliases'), 'w') as file:
        file.write(ALIASES)
    database = sqlite3.connect(os.path.join(folder, 'users.db'))
    database.execute('CREATE TABLE users (address TEXT PRIMARY KEY, password TEXT)')
    database.execute('INSERT INTO users VALUES (?, ?)', ('erin@sql.test', '{CRYPT}' + HASH))
    database.commit()
    database.close()


def main():
    checks = Checks()
    if not shutil.which('openssl'):
        checks.skip('submission', 'no openssl command to make a certificate')
        return checks.done()
    with tempfile.TemporaryDirectory(prefix='holdfast-submission-') as folder:
        prepare(folder)
        with Server(folder=folder, extra=SETTINGS.format(folder)) as server:
            house = House(server)
            for name, test in CASES.items():
                checks.run(name, lambda: test(house))
            if shutil.which('gsasl'):
                checks.run('scram sha 256 plus', lambda: scram_plus(house))
            else:
                checks.skip('scram sha 256 plus', 'no gsasl command')
            if os.path.exists('/usr/sbin/dovecot'):
                dovecot_cases(house, checks)
            else:
                checks.skip('dovecot', 'no Dovecot')
            checks.ok('the server is still there', server.alive())
    return checks.done()


if __name__ == '__main__':
    raise SystemExit(main())
