"""What every whole-system test needs: a server of its own, a raw SMTP client, and counting.

    from lib import Checks, Server, Client, shared

    checks = Checks()
    with Server(limits='message_size = 1M') as server:          # fresh folder, free ports, ended by pid
        with Client(server.address('smtp')) as client:          # has read the banner: client.banner
            client.command('EHLO c.example')                    # -> Reply(code, lines)
            checks.ok('noop', client.command('NOOP').code == 250)
        checks.ok('stored', len(server.wait_events('message.accepted', 1)) == 1)
        server.wait_mails('alice', 1)                           # -> list of bytes, CRLF lines
    raise SystemExit(checks.done())

Only the standard library. The binary is $HOLDFAST, else build/holdfast beside the sources. Every wait has a deadline and
waits for an event; nothing sleeps for a guessed time.
"""
import ctypes
import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections import namedtuple

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
HOLDFAST = os.environ.get('HOLDFAST', os.path.join(ROOT, 'build', 'holdfast'))
PATIENCE_S = float(os.environ.get('HOLDFAST_PATIENCE', '30'))
USERS = ('alice', 'bob', 'carol', 'u', 'b', 'user', 'postmaster', *(f'r{number}' for number in range(101)))
# Who can log in as user@DOMAIN, with "secretpassword".
HASHES = {'user': '$6$rounds=1000$holdfasttest$wwil9uTYK3uS/hFtIgE85nsPxnR0vr39WUGFd6tfqPchEYBXjEyH77ZrdHjfltFvD.yBmjV9IHsYLbEcyrr2c0'}
DOMAINS = ('rcpt.test', 'testserver', 'demo.example')

Reply = namedtuple('Reply', 'code lines')


class Checks:
    """Counts and prints 'ok NAME', 'not ok NAME: why', 'ok NAME # SKIP why'; done() prints the closing line."""

    def __init__(self):
        self.passed = self.failed = self.skipped = 0

    def ok(self, name, right, why=''):
        if right:
            self.passed += 1
            print(f'ok {name}', flush=True)
        else:
            self.failed += 1
            print(f'not ok {name}: {why}', flush=True)
        return bool(right)

    def skip(self, name, why):
        self.skipped += 1
        print(f'ok {name} # SKIP {why}', flush=True)

    def run(self, name, test):
        """Runs test(); it passes unless it raises. AssertionError's text is the reason."""
        try:
            test()
        except (AssertionError, OSError, ValueError, KeyError, IndexError) as fault:
            return self.ok(name, False, f'{type(fault).__name__}: {fault}')
        return self.ok(name, True)

    def done(self):
        print(f'{self.passed} passed, {self.failed} failed, {self.skipped} skipped', flush=True)
        return 1 if self.failed or self.passed + self.skipped == 0 else 0


def shared(*parts):
    """A path under ../shared, or None after printing the SKIP line that the runner excuses."""
    path = os.path.join(os.environ.get('HOLDFAST_SHARED', os.path.join(ROOT, '..', 'shared')), *parts)
    if os.path.exists(path):
        return path
    print('SKIP ../shared is absent')
    print('0 passed, 0 failed, 1 skipped')
    return None


def wait_until(what, check, patience_s=PATIENCE_S):
    """Asks check() until it gives something true; AssertionError at the deadline."""
    end = time.monotonic() + patience_s
    while True:
        value = check()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f'gave up waiting for {what}')
        time.sleep(0.01)


def own_mounts():
    """From here on what this process mounts is seen by nobody else. Another test's mount namespace would hold a mount beyond its
    `umount`, which says nothing of it: the file system then goes on writing into its image, and is the one that is mounted again."""
    NEW_MOUNTS = 0x20000
    if ctypes.CDLL(None, use_errno=True).unshare(NEW_MOUNTS) != 0:
        raise OSError(ctypes.get_errno(), 'unshare')
    subprocess.run(['mount', '--make-rprivate', '/'], check=True)


def make_certificate(folder):
    """A self-signed certificate and key for mx.test by the openssl command; (None, None) when that is absent."""
    certificate, key = os.path.join(folder, 'cert.pem'), os.path.join(folder, 'key.pem')
    if not shutil.which('openssl'):
        return None, None
    subprocess.run(['openssl', 'req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes',
                    '-keyout', key, '-out', certificate, '-days', '30', '-subj', '/CN=mx.test'],
                   check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return certificate, key


def is_running(pid):
    try:
        with open(f'/proc/{pid}/stat') as file:
            return file.read().rsplit(')', 1)[1].split()[0] not in 'ZX'
    except OSError:
        return False


class Server:
    """A Holdfast in a folder of its own. Listeners: smtp, lmtp, smtps, submission and submissions (s: implicit TLS), on free ports.

    limits: text for the limits section; extra: more configuration; text: the whole configuration instead of ours, with
    {folder} for the folder. folder: reuse one (a restart on the same spool); it is then not removed.
    command: words put in front of the binary (strace and the like), which then is one process without its locks.
    user: the worker's. options: more words behind `serve`. secure: with a certificate."""

    def __init__(self, limits='', extra='', text=None, folder=None, command=(), start=True, options=(), secure=True):
        self.own_folder = folder is None
        self.folder = folder or tempfile.mkdtemp(prefix='holdfast-test-')
        self.command = list(command)
        self.options = [*options, *(['--one-process'] if command else [])]
        self.process = None
        self.lines = []
        self.changed = threading.Condition()
        self.certificate, key = make_certificate(self.folder) if secure else (None, None)
        users = os.path.join(self.folder, 'users')
        os.makedirs(os.path.join(self.folder, 'mail'), exist_ok=True)
        with open(users, 'w') as file:
            file.write(''.join(f'{user}:{HASHES[user]}\n' if user in HASHES else f'{user}\n' for user in USERS))
        if text is None:
            text = self._configuration(limits, extra, users, key)
        self.config = os.path.join(self.folder, 'holdfast.conf')
        with open(self.config, 'w') as file:
            file.write(text.replace('{folder}', self.folder))
        if start:
            self.start()

    def _configuration(self, limits, extra, users, key):
        tls = f'tls {{ certificate = "{self.certificate}"  key = "{key}" }}\n' if self.certificate else ''
        smtps = ('listen smtps { address = "127.0.0.1:0"  tls = implicit }\n'
                 'listen submissions { address = "127.0.0.1:0"  kind = submission  tls = implicit }\n') if self.certificate else ''
        domains = ''.join(f'domain "{name}" {{ users = "file:{users}"  '
                          f'deliver = "maildir:{self.folder}/mail/{{domain}}/{{user}}" }}\n' for name in DOMAINS)
        return (f'hostname = "mx.test"\nspool = "{self.folder}/spool"\n'
                'listen smtp { address = "127.0.0.1:0" }\n'
                'listen lmtp { address = "127.0.0.1:0"  kind = lmtp }\n'
                'listen submission { address = "127.0.0.1:0"  kind = submission }\n'
                f'{smtps}{tls}{domains}'
                f'limits {{ {limits} }}\nlog {{ format = json  level = info }}\n{extra}\n')

    def start(self):
        self.lines = []
        self.process = subprocess.Popen([*self.command, HOLDFAST, 'serve', '-c', self.config, *self.options], cwd=self.folder,
                                        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        self.reader = threading.Thread(target=self._read, args=(self.process.stderr,), daemon=True)
        self.reader.start()
        try:
            self._wait('its doors to open', lambda: self._count('server.started') and self.addresses())
        except AssertionError:
            self.kill()
            raise

    def _read(self, pipe):
        for line in pipe:
            with self.changed:
                self.lines.append(line.decode(errors='replace').rstrip('\n'))
                self.changed.notify_all()
        with self.changed:
            self.lines.append('')
            self.changed.notify_all()

    def _wait(self, what, check, patience_s=PATIENCE_S):
        end = time.monotonic() + patience_s
        with self.changed:
            while True:
                value = check()
                if value:
                    return value
                left = end - time.monotonic()
                if left <= 0 or not self.reader.is_alive():
                    raise AssertionError(f'gave up waiting for {what}; the journal ends with:\n' + '\n'.join(self.lines[-20:]))
                self.changed.wait(min(left, 1))

    def _count(self, name):
        return sum(1 for event in self.events() if event.get('event') == name)

    def addresses(self):
        """{listener: (host, port)} as the server says at start."""
        found = re.findall(r'listening: (\S+) on ([0-9.]+):(\d+)', '\n'.join(self.lines))
        return {name: (host, int(port)) for name, host, port in found}

    def address(self, name='smtp'):
        return self._wait(f'the address of {name}', lambda: self.addresses().get(name))

    def events(self, name=None):
        """The journal's events so far (JSON objects), by name."""
        found = []
        for line in list(self.lines):
            if line.startswith('{'):
                try:
                    event = json.loads(line)
                except ValueError:
                    continue
                if name is None or event.get('event') == name:
                    found.append(event)
        return found

    def wait_events(self, name, count=1, **fields):
        """At least `count` events of that name whose fields are as given."""
        def matching():
            return [event for event in self.events(name) if all(event.get(key) == value for key, value in fields.items())]
        return self._wait(f'{count} x {name} {fields}', lambda: len(matching()) >= count and matching())

    def mails(self, user, domain='rcpt.test'):
        """The messages in a user's Maildir, as bytes; oldest name first."""
        found = []
        for sub in ('new', 'cur'):
            folder = os.path.join(self.folder, 'mail', domain, user, sub)
            for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else ():
                with open(os.path.join(folder, name), 'rb') as file:
                    found.append(file.read())
        return found

    def wait_mails(self, user, count, domain='rcpt.test'):
        return wait_until(f'{count} messages of {user}', lambda: len(self.mails(user, domain)) >= count and self.mails(user, domain))

    @property
    def worker_pid(self):
        """The process that serves: the parent's child of that name, or the only one there is."""
        with open(f'/proc/{self.process.pid}/task/{self.process.pid}/children') as file:
            for pid in file.read().split():
                try:
                    with open(f'/proc/{pid}/cmdline') as words:
                        if words.read().split('\0')[1:2] == ['worker']:
                            return int(pid)
                except OSError:
                    continue  # it ended meanwhile
        return self.process.pid

    def memory_kib(self):
        """Resident memory of the server now."""
        with open(f'/proc/{self.worker_pid}/status') as file:
            return int(re.search(r'VmRSS:\s+(\d+)', file.read()).group(1))

    def run(self, *words):
        """A command of the binary with this server's configuration: (exit code, standard output, standard error)."""
        done = subprocess.run([HOLDFAST, *words, '-c', self.config], cwd=self.folder, capture_output=True, text=True, timeout=PATIENCE_S,
                              stdin=subprocess.DEVNULL)
        return done.returncode, done.stdout, done.stderr

    def alive(self):
        return self.process is not None and self.process.poll() is None

    def stop(self, patience_s=PATIENCE_S):
        """SIGTERM and wait; its exit code."""
        if self.alive():
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(patience_s)
            except subprocess.TimeoutExpired:
                self.kill()
                raise AssertionError('the server did not stop')
        self.reader.join(5)
        return self.process.returncode

    def kill(self):
        """SIGKILL; its children die of it a moment later, and only then are its files and ports free."""
        if self.alive():
            children = self.children()
            self.process.kill()
            self.process.wait()
            wait_until('its processes to end', lambda: not any(is_running(pid) for pid in children))
        self.reader.join(5)

    def children(self):
        try:
            with open(f'/proc/{self.process.pid}/task/{self.process.pid}/children') as file:
                return [int(word) for word in file.read().split()]
        except OSError:
            return []

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        try:
            if self.process is not None:
                self.stop()
        finally:
            if kind is not None and self.lines:
                print('# journal ends with:\n# ' + '\n# '.join(self.lines[-20:]), file=sys.stderr)
            if self.own_folder:
                shutil.rmtree(self.folder, ignore_errors=True)


class Closed(AssertionError):
    """The server closed the connection where a reply was due."""


class Client:
    """One raw connection. Bytes go out as given; replies come in whole. one_by_one: a write a byte."""

    def __init__(self, address, banner=True, tls=False, one_by_one=False):
        self.socket = socket.create_connection(address, timeout=PATIENCE_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.pending = b''
        self.one_by_one = one_by_one
        if tls:
            self.start_tls()
        self.banner = self.reply() if banner else None

    def start_tls(self):
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        self.pending = b''
        self.socket = context.wrap_socket(self.socket)

    def send(self, data):
        if isinstance(data, str):
            data = data.encode()
        if self.one_by_one:
            for index in range(len(data)):
                self.socket.sendall(data[index:index + 1])
        else:
            self.socket.sendall(data)

    def line(self):
        while b'\n' not in self.pending:
            try:
                data = self.socket.recv(65536)
            except (ConnectionResetError, ssl.SSLError) as fault:
                raise Closed(f'connection lost ({fault}); unread: {self.pending!r}')
            if not data:
                raise Closed(f'connection closed; unread: {self.pending!r}')
            self.pending += data
        line, self.pending = self.pending.split(b'\n', 1)
        if not line.endswith(b'\r'):
            raise AssertionError(f'reply line without CR LF: {line!r}')
        return line[:-1].decode()

    def reply(self):
        """A whole reply, every line; AssertionError when it is not well formed (RFC 5321 4.2)."""
        lines = [self.line()]
        while re.match(r'[2-5]\d\d-', lines[-1]):
            lines.append(self.line())
        if not all(re.match(r'[2-5]\d\d[ -]', line) and line[:3] == lines[0][:3] for line in lines):
            raise AssertionError(f'no well-formed reply: {lines!r}')
        return Reply(int(lines[-1][:3]), lines)

    def replies(self, count):
        return [self.reply() for _ in range(count)]

    def command(self, line):
        self.send(line.encode() + b'\r\n' if isinstance(line, str) else line + b'\r\n')
        return self.reply()

    def rest(self):
        """Everything up to the end of the connection, or AssertionError when it does not end."""
        data = self.pending
        self.pending = b''
        try:
            while True:
                piece = self.socket.recv(65536)
                if not piece:
                    return data
                data += piece
        except (ConnectionResetError, BrokenPipeError, ssl.SSLError):
            return data
        except socket.timeout:
            raise AssertionError(f'the connection stays open; read {data[-200:]!r}')

    def quiet(self, wait_s=0.2):
        """Did nothing come, and is the connection open? For 'no reply to this': the wait only bounds how sure we are."""
        if self.pending:
            return False
        self.socket.settimeout(wait_s)
        try:
            self.pending = self.socket.recv(65536)
            return False
        except (socket.timeout, ssl.SSLWantReadError):
            return True
        finally:
            self.socket.settimeout(PATIENCE_S)

    def end(self):
        """Half-close: we send no more."""
        self.socket.shutdown(socket.SHUT_WR)

    def reset(self):
        """TCP RST."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b'\x01\0\0\0\0\0\0\0')
        self.socket.close()

    def close(self):
        self.socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *fault):
        self.close()
