"""A server that is struck at exactly the so-many-th call (strike.c), and twenty canonical scenarios to strike it in.

    place = Place(scenario)                      # a folder with a spool that is made already
    with Run(place) as run:
        run.start(mode=KILL_BEFORE, at=17)
        scenario.play(run)                       # sends, waits; errors of the network are the run's affair
        ...
        run.start(); run.settle()                # again without a fault: everything comes to its end
        problems = run.judge()

What the clients were told is in run.letters; what became of it is read from mailboxes, next hops and the queue."""
import glob
import json
import mmap
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import threading
import time

from lib import HOLDFAST, Client, Closed, Server, wait_until
from lib_faults import FaultServer, free_port, queued
from lib_hop import NextHop

BUILD = os.environ.get('HOLDFAST_BUILD', os.path.dirname(HOLDFAST))
LIBRARY = os.path.join(BUILD, 'tests/unit/libstrike.so')
COUNT, KILL_BEFORE, KILL_AFTER, IO, ALLOCATION, STALL = range(6)
HEAD = struct.Struct('<IIIIQQQQ32s32sIIQ')
FRAMES, SITES = 24, 16384
PATIENCE_S = 60
START_S = 300           # where so much runs that a start takes a minute
STOP_S = 10             # a stop with a fault in it; libunbound waits for ever for its thread when a write to it failed: then the
                        # parent kills the worker after 90 s, and here we do
FOR_EVER_S = 0.7        # then "for ever" is over, and has to heal
# One that the worker may read; the bundle of all where there is none.
AUTHORITY = next(iter(sorted(glob.glob('/usr/share/ca-certificates/mozilla/*.crt'))), '/etc/ssl/certs/ca-certificates.crt')
MEMORY = '/dev/shm' if os.path.isdir('/dev/shm') else None


class Page:
    """The page that strike.c shares with us."""

    def __init__(self, folder):
        self.path = os.path.join(folder, 'strike')
        with open(self.path, 'w+b') as file:
            file.truncate(HEAD.size + 8 * FRAMES + 16 * SITES)
            self.map = mmap.mmap(file.fileno(), 0)

    def put(self, armed=0, mode=COUNT, at=0, for_ever=False, only='', error=0, by_site=False, site=0):
        """by_site: sites are collected; with `site`, that one is struck instead of call number `at`."""
        head = HEAD.pack(armed, mode, int(for_ever), 0, at, 0, 0, 0, b'', only.encode(), error, int(by_site), site)
        self.map[:] = head.ljust(len(self.map), b'\0')

    def arm(self, armed=1):
        self.map[:4] = struct.pack('<I', armed)

    def get(self):
        armed, _, for_ever, struck, _, steps, calls, allocations, what, _, _, _, _ = HEAD.unpack(self.map[:HEAD.size])
        return {'armed': armed, 'for_ever': for_ever, 'struck': struck, 'steps': steps, 'calls': calls, 'allocations': allocations, 'what': what.split(b'\0')[0].decode()}

    def sites(self):
        found = {site: count for site, count in struct.iter_unpack('<QQ', self.map[HEAD.size + 8 * FRAMES:]) if site}
        if len(found) == SITES:
            raise AssertionError('more sites than the page has room for')
        return found

    def callers(self):
        """Who called what was struck by its site, innermost first, as far as it is the server's own."""
        frames = [frame for frame, in struct.iter_unpack('<Q', self.map[HEAD.size:HEAD.size + 8 * FRAMES]) if frame]
        own = [hex(frame - 1) for frame in frames if frame < 1 << 32]
        done = subprocess.run(['addr2line', '-f', '-s', '-e', HOLDFAST, *own], capture_output=True, text=True) if own and shutil.which('addr2line') else None
        names = done.stdout.split('\n')[0::2] if done else own
        return ' < '.join(name for name in names if name)


class Letter:
    def __init__(self, number, sender, recipients, size=300):
        self.number, self.token, self.sender, self.recipients, self.size = number, f'L{number:03d}E', sender, recipients, size
        self.accepted = 0           # 250 at the dot
        self.tries = 0
        self.taken, self.refused = [], {}   # of the accepted try: recipients; recipient -> reply, when 5yz

    def text(self):
        head = f'From: <{self.sender}>\r\nSubject: {self.token}\r\nMessage-ID: <{self.token}@client.example>\r\n\r\n{self.token}\r\n.leading dot\r\n'
        line = 'x' * 70 + '\r\n'
        return (head + line * max(0, (self.size - len(head)) // len(line))).encode()


class StruckServer(FaultServer):
    """The journal is kept; the process is the head of a group that dies as one."""

    def __init__(self, page, extra, **more):
        self.page = page
        super().__init__(extra, start=False, **more)

    def start(self, quick=True):
        self.lines = []
        env = {**os.environ, 'LD_PRELOAD': LIBRARY, 'STRIKE_PAGE': self.page.path,
               'SSL_CERT_FILE': AUTHORITY, 'SSL_CERT_DIR': self.folder}     # to read all that there are is a third of a start
        self.process = subprocess.Popen([HOLDFAST, 'serve', '-c', self.config], cwd=self.folder, env=env, stdin=subprocess.DEVNULL,
                                        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True)
        self.reader = threading.Thread(target=self._read, args=(self.process.stderr,), daemon=True)
        self.reader.start()
        try:
            self._wait('its doors to open', lambda: self._count('server.started') and self.addresses(), START_S)
        except AssertionError:
            self.kill()
            raise

    def kill(self):
        if self.process and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        if self.process:
            self.reader.join(5)


RELAY = 'relay {{ from = {{"127.0.0.0/8"}} }}\nroute "far.example" {{ via = "{kind}:127.0.0.1:{hop}" }}\n'
RETRY = 'retry {{ schedule = {{200ms}}  warn_after = {warn}  expire_after = {expire}  jitter = 0  ambiguous_pause = 200ms }}\n'


def retry(warn, expire):
    return RETRY.replace('{warn}', warn).replace('{expire}', expire)


def relay(kind='smtp', warn='1h', expire='5d'):
    return RELAY.replace('{kind}', kind) + retry(warn, expire)


def processes(server):
    """The server's process and all that it started."""
    found, more = [], [server.process.pid]
    while more:
        found.append(more.pop())
        try:
            with open(f'/proc/{found[-1]}/task/{found[-1]}/children') as file:
                more += [int(word) for word in file.read().split()]
        except OSError:
            found.pop()     # it ended meanwhile
    return found


class Scenario:
    """name, what it shows, the configuration beyond a plain domain, the letters, and the next hop's manners."""

    def __init__(self, name, about, letters, extra='', hop=None, how='data', filter=None, begin=''):
        """begin: '': the server runs already; 'fresh': its first start; 'restart': a start that finds these letters in the
        spool of a server that was killed; 'reload': it is told to reload; 'stop': it is told to stop behind the letters."""
        self.name, self.about, self.letters, self.hop, self.how = name, about, letters, hop, how
        self.extra = extra if 'retry' in extra else extra + retry('1h', '5d')
        self.filter, self.begin = filter, begin


def taking(hop, number):
    hop.say('220 hop')
    hop.serve(('PIPELINING', 'DSN'))


def away_first(hop, number):
    if number > 0:
        taking(hop, number)


def secured(hop, number):
    hop.say('220 hop')
    hop.line()
    hop.say('250-hop\r\n250 STARTTLS')
    if hop.line().upper() == 'STARTTLS':
        hop.say('220 go')
        hop.start_tls(*hop.owner.certificate)
    hop.serve()


def lmtp(hop, number):
    """LMTP: one reply a recipient."""
    hop.say('220 hop LMTP')
    sender, recipients = '', []
    while True:
        line = hop.line()
        verb = line[:4].upper()
        if not line or verb == 'QUIT':
            return
        if verb == 'MAIL':
            sender, recipients = line[10:].split('>')[0].lstrip('<'), []
        if verb == 'RCPT':
            recipients.append(line[8:].split('>')[0].lstrip('<'))
        if verb == 'DATA':
            hop.say('354 go')
            body = hop.body()
            if body is None:
                return
            for one in recipients:
                hop.owner.messages.append((sender, [one], body))
                hop.say('250 taken')
            continue
        hop.say('250-hop\r\n250 PIPELINING' if verb == 'LHLO' else '250 ok')


def until(hop, verb, answer):
    """One answer, and the end of the session: or the next try would come by the same one."""
    hop.say('220 hop')
    while True:
        line = hop.line()
        if not line:
            return
        hop.say(answer if line[:4].upper() == verb else '250 hop')
        if line[:4].upper() == verb:
            return


def deferring_first(hop, number):
    if number < 2:
        until(hop, 'MAIL', '451 4.3.0 later')
    else:
        taking(hop, number)


def busy_first(hop, number):
    if number < 2:
        hop.say('421 4.3.2 busy')
        return
    taking(hop, number)


def refusing(hop, number):
    hop.say('220 hop')
    hop.serve(rcpt='550 5.1.1 nobody here')


def deferring(hop, number):
    until(hop, 'RCPT', '450 4.2.0 later')


def silent_first(hop, number):
    """Takes the message and goes without a word, the first time."""
    hop.say('220 hop')
    if number >= 1:
        hop.serve()
        return
    for reply in ('250 hop', '250 ok', '250 ok', '354 go'):
        if not hop.line():
            return
        hop.say(reply)
    body = hop.body()
    if body is not None:
        hop.owner.messages.append(('?', ['silent@far.example'], body))


def mixed(hop, number):
    """Each recipient has its own fate."""
    hop.say('220 hop')
    sender, recipients = '', []
    while True:
        line = hop.line()
        verb = line[:4].upper()
        if not line or verb == 'QUIT':
            return
        if verb == 'MAIL':
            sender, recipients = line[10:].split('>')[0].lstrip('<'), []
        if verb == 'RCPT':
            to = line[8:].split('>')[0].lstrip('<')
            if to.startswith('no'):
                hop.say('550 5.1.1 nobody')
                continue
            if to.startswith('later') and number < 2:
                hop.say('450 4.2.1 later')
                continue
            recipients.append(to)
        if verb == 'DATA' and recipients:
            hop.say('354 go')
            body = hop.body()
            if body is None:
                return
            hop.owner.messages.append((sender, recipients, body))
            if number < 2:
                hop.say('250 ok')
                return
        hop.say('250 ok')


def clamd(answer):
    """A scripted clamd: reads INSTREAM whole, then says what `answer(text)` gives."""
    def serve(connection):
        data = b''
        connection.settimeout(PATIENCE_S)
        while b'\0' not in data:
            piece = connection.recv(65536)
            if not piece:
                return
            data += piece
        if data.startswith(b'zPING'):
            connection.sendall(b'PONG\0')
            return
        data, text = data.split(b'\0', 1)[1], b''
        while True:
            while len(data) < 4 or len(data) < 4 + struct.unpack('!I', data[:4])[0]:
                piece = connection.recv(65536)
                if not piece:
                    return
                data += piece
            size, = struct.unpack('!I', data[:4])
            if size == 0:
                break
            text, data = text + data[4:4 + size], data[4 + size:]
        connection.sendall(answer(text))
    return serve


def clean_or_found(text):
    return b'stream: Eicar FOUND\0' if b'INFECTED' in text else b'stream: OK\0'


class Doors:
    """A server of bytes: a thread a connection."""

    def __init__(self, serve):
        self.listener = socket.create_server(('127.0.0.1', 0))
        self.port = self.listener.getsockname()[1]
        self.serve = serve
        self._begin()

    def _begin(self):
        self.thread = threading.Thread(target=self._accept, args=(self.listener,), daemon=True)
        self.thread.start()

    def shut(self):
        """Refuses connections, and resets those that are open, until open_again()."""
        try:
            self.listener.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass        # it is shut already
        self.thread.join(5)     # it would go on with whoever gets the descriptor next
        self.listener.close()

    def open_again(self):
        self.listener = socket.create_server(('127.0.0.1', self.port))
        self._begin()

    def _accept(self, listener):
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._one, args=(connection,), daemon=True).start()

    def _one(self, connection):
        try:
            self.serve(connection)
        except OSError:
            pass
        finally:
            connection.close()

    def close(self):
        self.shut()


ME, US = 'alice@home.example', 'bob@home.example'
FAR = 'x@far.example'
SECURED = ('tls {{ certificate = "{place}/cert.pem"  key = "{place}/key.pem" }}\n'
           'sign home {{ domain = "home.example"  selector = "s"  key = "{place}/dkim.pem" }}\n')
FILTER = 'filter av {{ speaks = clamd  address = "127.0.0.1:{filter}"  timeout = 10s }}\n'

SCENARIOS = [
    Scenario('one', 'one message, one mailbox', [(FAR, [ME])]),
    Scenario('two-boxes', 'one message, two mailboxes', [(FAR, [ME, US])]),
    Scenario('alias', 'an alias that leads to three mailboxes', [(FAR, ['team@home.example'])]),
    Scenario('chunks', 'BDAT in three chunks', [(FAR, [ME], 9000)], how='bdat'),
    Scenario('pipelined', 'a pipelined envelope', [(FAR, [ME, US])], how='pipelined'),
    Scenario('large', 'a body in a file of its own', [(FAR, [ME], 700000)]),
    Scenario('large-relayed', 'the same, to a next hop', [(ME, [FAR], 700000)], relay(), taking),
    Scenario('five-in-a-row', 'five messages in one session', [(FAR, [ME])] * 5),
    Scenario('null-sender', 'a message that must not bounce', [('', [US])]),
    Scenario('relayed', 'to a next hop by SMTP', [(ME, [FAR])], relay(), taking),
    Scenario('lmtp', 'to a next hop by LMTP, two recipients', [(ME, [FAR, 'y@far.example'])], relay('lmtp'), lmtp),
    Scenario('deferred', 'the next hop defers twice, then takes', [(ME, [FAR])], relay(), deferring_first),
    Scenario('busy', 'the next hop says 421 twice, then takes', [(ME, [FAR])], relay(), busy_first),
    Scenario('refused', 'the next hop refuses: a notification', [(ME, ['no@far.example'])], relay(), refusing),
    Scenario('mixed', 'delivered, refused and deferred in one message', [(ME, [FAR, 'no@far.example', 'later@far.example'])], relay(), mixed),
    Scenario('ambiguous', 'the next hop takes the message and goes without a reply', [(ME, ['silent@far.example'])], relay(), silent_first),
    Scenario('warned', 'a delay is told', [(ME, [FAR])], relay(warn='300ms'), lambda hop, number: (deferring if number < 4 else taking)(hop, number)),
    Scenario('expired', 'the lifetime is over: a notification', [(ME, ['never@far.example'])], relay(expire='700ms'), deferring),
    Scenario('scanned', 'a clean and an infected message through a filter', [(FAR, [ME]), (FAR, [US], 400, 'INFECTED')], FILTER, filter=clean_or_found),
    Scenario('to-both', 'a mailbox and a next hop', [(ME, [US, FAR])], relay(), taking),
    Scenario('secured', 'STARTTLS on both sides, a DKIM signature', [(ME, [FAR])], SECURED + relay(), secured, how='tls'),
    Scenario('first-start', 'the first start of all, a message', [(FAR, [ME])], begin='fresh'),
    Scenario('stop', 'an orderly stop while a message waits', [(ME, [FAR]), (FAR, [ME])], relay(), away_first, begin='stop'),
    Scenario('restart', 'a start that finds two messages', [(ME, [FAR]), (FAR, [ME])], relay(), away_first, begin='restart'),
    Scenario('reload', 'a reload, a message', [(FAR, [ME])], begin='reload'),
]


class Place:
    """A folder with the scenario's configuration and a spool that was opened once; copied for each run."""

    def __init__(self, folder=None):
        """folder: one that another process has made."""
        self.folder = folder or tempfile.mkdtemp(prefix='holdfast-strike-', dir=MEMORY)
        self.spool = os.path.join(self.folder, 'spool')
        if not folder:
            self._make()

    def _make(self):
        with open(os.path.join(self.folder, 'holdfast.conf'), 'w') as file:
            file.write(f'hostname = "mx.home.example"\nspool = "{self.spool}"\nlisten smtp {{ address = "127.0.0.1:0" }}\n'
                       f'domain "home.example" {{ users = "file:{self.folder}/users"  deliver = "maildir:{self.folder}/mail/{{user}}" }}\n')
        with open(os.path.join(self.folder, 'users'), 'w') as file:
            file.write('alice\n')
        subprocess.run(['openssl', 'genpkey', '-algorithm', 'ed25519', '-out', os.path.join(self.folder, 'dkim.pem')], check=True, stderr=subprocess.DEVNULL)
        server = Server(folder=self.folder, text=open(os.path.join(self.folder, 'holdfast.conf')).read())
        wait_until('both spares', lambda: os.path.exists(os.path.join(self.spool, 'log/spare-1')))
        server.stop()
        made = self.spool + '.made'
        os.rename(self.spool, made)
        subprocess.run(['cp', '-a', '--sparse=always', made, self.spool], check=True)    # holes are quick to copy
        shutil.rmtree(made)

    def copy(self, into):
        subprocess.run(['cp', '-a', '--sparse=always', self.spool, into], check=True)

    def close(self):
        shutil.rmtree(self.folder, ignore_errors=True)


class Run:
    def __init__(self, place, scenario):
        self.scenario = scenario
        self.folder = tempfile.mkdtemp(prefix='holdfast-struck-', dir=MEMORY)
        if scenario.begin != 'fresh':
            place.copy(os.path.join(self.folder, 'spool'))
        self.page = Page(self.folder)
        self.sessions, self.closed, self.dies, self.recovered = 0, False, False, 0
        self.hop = NextHop(self._hop) if scenario.hop else None
        if self.hop:
            self.hop.certificate = (os.path.join(place.folder, 'cert.pem'), os.path.join(place.folder, 'key.pem'))
        self.doors = Doors(clamd(self._scan)) if scenario.filter else None
        self.scanned = []
        extra = scenario.extra.format(hop=self.hop.port if self.hop else 0, filter=self.doors.port if self.doors else 0, place=place.folder)
        with open(os.path.join(self.folder, 'aliases'), 'w') as file:
            file.write('team: alice, bob, carol\n')
        self.server = StruckServer(self.page, extra, folder=self.folder, aliases='file:{folder}/aliases', web=0, secure=False)
        self.letters, self.told, self.strike = [], (0, 0), 0
        self._write_letters(0)

    def _write_letters(self, first):
        self.letters = []
        for number, (sender, recipients, *rest) in enumerate(self.scenario.letters, first):
            letter = Letter(number, sender, recipients, *rest[:1])
            letter.word = rest[1] if len(rest) > 1 else ''
            self.letters.append(letter)

    def _hop(self, hop):
        number, self.sessions = self.sessions, self.sessions + 1
        self.scenario.hop(hop, number)

    def _scan(self, text):
        self.scanned.append(text)
        return self.scenario.filter(text)

    # ------------------------------------------------------------ the server

    def start(self, mode=COUNT, at=0, for_ever=False, from_start=False, **more):
        """Counts, and strikes, from the start on or when the doors are open."""
        self._prepare(int(from_start), mode, at, for_ever, **more)
        if self.dies:
            threading.Thread(target=self._executioner, args=(self.server, self.server.process), daemon=True).start()
        self.server.start()
        if not from_start:
            self.page.arm()

    def _prepare(self, armed, mode, at, for_ever, **more):
        self.page.arm(0)
        self.page.put(armed, mode, at, for_ever, **more)
        self.dies = mode in (KILL_BEFORE, KILL_AFTER)
        self.strike += 1
        if mode in (IO, ALLOCATION) and for_ever:
            threading.Thread(target=self._mender, args=(self.strike,), daemon=True).start()

    def once_more(self, mode, for_ever, **more):
        """The scenario again with the server that runs, which has come to the end of all before, and letters of their own."""
        self._write_letters(self.letters[-1].number + 1)
        for user in ('alice', 'bob', 'carol'):
            for path in glob.glob(os.path.join(self.folder, 'mail', 'home.example', user, 'new', '*')):
                os.remove(path)
        if self.hop:
            self.hop.forget()
        self.sessions, self.scanned = 0, []
        self.told = self._told()
        self._prepare(0, mode, 0, for_ever, **more)
        self.page.arm()

    def begin(self, mode=COUNT, at=0, for_ever=False, **more):
        """The scenario's own start. A server that is struck while it starts is gone afterwards."""
        if self.scenario.begin == 'restart':
            self.start()
            self.send_all()
            self.server.kill()
            self.server.process = None
        try:
            self.start(mode, at, for_ever, from_start=self.scenario.begin in ('fresh', 'restart'), **more)
        except AssertionError:
            if not self.page.get()['struck']:
                raise
            return
        if self.scenario.begin == 'reload':
            self.server.process.send_signal(signal.SIGHUP)
            end = time.monotonic() + 5
            while time.monotonic() < end and not self.gone() and not self.server.events('config.reloaded'):
                time.sleep(0.01)

    def _executioner(self, server, before):
        """Kills the whole group as soon as the page says that it was struck."""
        while not self.closed:
            if self.page.get()['struck'] and server.process is not before:
                try:
                    os.killpg(server.process.pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
                return
            time.sleep(0.003)

    def _mender(self, strike):
        """Lets calls fail for a while, then no more."""
        while not self.closed and self.strike == strike and not self.page.get()['struck']:
            time.sleep(0.02)
        time.sleep(FOR_EVER_S)
        if not self.closed and self.strike == strike:
            self.page.arm(0)

    def gone(self):
        return self.server.process.poll() is not None

    # ------------------------------------------------------------ the clients

    def send(self, letter):
        """One try. What was told is kept in the letter; a lost connection is no answer."""
        text = letter.text().replace(b'leading', letter.word.encode() or b'leading')
        letter.tries += 1
        taken, refused = [], {}
        client = Client(self.server.address('smtp'))
        client.socket.settimeout(20)
        try:
            def said(line):
                reply = client.command(line)
                assert 200 <= reply.code < 600, reply
                return reply
            if client.banner.code != 220 or said('EHLO client.example').code != 250:
                return 400
            if self.scenario.how == 'tls':
                if said('STARTTLS').code != 220:
                    return 400
                client.start_tls()
                if said('EHLO client.example').code != 250:
                    return 400
            if self.scenario.how == 'pipelined':
                client.send('\r\n'.join([f'MAIL FROM:<{letter.sender}>', *(f'RCPT TO:<{to}>' for to in letter.recipients), 'DATA', '']))
                first, *others, data = client.replies(len(letter.recipients) + 2)
            else:
                first = said(f'MAIL FROM:<{letter.sender}>')
                others = [said(f'RCPT TO:<{to}>') for to in letter.recipients] if first.code == 250 else []
                data = said('DATA') if self.scenario.how in ('data', 'tls') and any(one.code == 250 for one in others) else None
            for to, reply in zip(letter.recipients, others):
                if reply.code == 250:
                    taken.append(to)
                elif reply.code >= 500 and first.code == 250:
                    refused[to] = reply.lines[-1]
            if first.code >= 500:
                refused.update({to: first.lines[-1] for to in letter.recipients})
            if not taken or (data and data.code != 354):
                letter.refused = refused
                return first.code if first.code >= 400 else 400
            if self.scenario.how == 'bdat':
                wire = text
                third = len(wire) // 3
                for piece, last in ((wire[:third], ''), (wire[third:2 * third], ''), (wire[2 * third:], ' LAST')):
                    client.send(f'BDAT {len(piece)}{last}\r\n'.encode() + piece)
                    reply = client.reply()
                    if reply.code >= 400:
                        break
            else:
                client.send(b'\r\n'.join((b'.' + line if line.startswith(b'.') else line) for line in text.split(b'\r\n')) + b'.\r\n')
                reply = client.reply()
            if reply.code == 250:
                letter.accepted += 1
                letter.taken, letter.refused = taken, refused
            elif reply.code >= 500:
                letter.refused = {to: reply.lines[-1] for to in letter.recipients}
            return reply.code
        finally:
            client.close()

    def send_all(self):
        """Each letter that has no final answer yet, once; False when the server went away under it."""
        for letter in self.letters:
            if letter.accepted or letter.refused:
                continue
            try:
                self.send(letter)
            except (OSError, Closed, AssertionError, EOFError):
                pass

    def play(self, patience_s=PATIENCE_S):
        """What the scenario is: send, and all that follows, until it is struck and the fault over, or nothing more happens. Ends
        early when the server is gone."""
        if self.gone():
            return
        self.send_all()
        end, before = time.monotonic() + patience_s, None
        while time.monotonic() < end and not self.gone():
            now = self.page.get()
            if now['struck'] and self.dies:
                time.sleep(0.003)
            elif now['struck'] and (not now['armed'] or not now['for_ever']):
                return
            elif not now['struck'] and self.is_settled() and self.has_ended():
                if now == before:
                    return
                before = now
                time.sleep(0.15)
            else:
                self.pause()

    def pause(self):
        """Until the journal says more, or a moment later: what it tells may have failed."""
        with self.server.changed:
            self.server.changed.wait(0.1)

    def has_ended(self):
        """Does the journal tell the end of each message that this process took?"""
        accepted, ended = self._told()
        return ended - self.told[1] >= accepted - self.told[0]

    def _told(self):
        return len(self.server.events('message.accepted')), len(self.server.events('message.ended'))

    def leave(self):
        """An orderly stop, which can be struck like all else."""
        if not self.gone():
            self.server.process.send_signal(signal.SIGTERM)
            try:
                self.server.process.wait(STOP_S if self.page.get()['struck'] else PATIENCE_S)
            except subprocess.TimeoutExpired:
                if not self.page.get()['struck']:
                    raise AssertionError('the server does not stop')
                self.server.kill()

    def descriptors(self):
        """How many the server's processes have open."""
        count = 0
        for pid in processes(self.server):
            try:
                count += len(os.listdir(f'/proc/{pid}/fd'))
            except OSError:
                pass        # it ended meanwhile
        return count

    def leaks(self, before):
        """Problems, as text, when it has more descriptors open than it had, once it had the time to close them."""
        spare = 4       # a lazily opened database, a pooled connection
        end = time.monotonic() + PATIENCE_S
        while self.descriptors() > before + spare:
            if time.monotonic() > end:
                return [f'{self.descriptors()} descriptors are open, {before} were']
            time.sleep(0.1)
        return []

    # ------------------------------------------------------------ what became of it

    def found(self):
        """(where, recipient, token) of every copy, notifications apart."""
        copies, notes, bad = [], [], []
        for user in ('alice', 'bob', 'carol'):
            for mail in self.server.mails(user, 'home.example'):
                tokens = set(re.findall(rb'\bL\d{3}E\b', mail))
                token = tokens.pop().decode() if tokens else '?'
                if b'report-type=delivery-status' in mail:
                    if token == '?' and len(self.letters) == 1:     # the original could not be read any more
                        token = self.letters[0].token
                    failed = re.findall(rb'Final-Recipient: rfc822; ?(\S+)(?:\r?\n\S[^\n]*)*?\r?\nAction: (\w+)', mail)
                    notes += [(token, to.decode(), action.decode()) for to, action in failed] or [(token, '?', '?')]
                    continue
                copies.append((token, f'{user}@home.example'))
                letter = next((one for one in self.letters if one.token == token), None)
                if letter and self.body_of(letter).replace(b'\r\n', b'\n') not in mail.replace(b'\r\n', b'\n'):
                    bad.append(f'{token} is cut in the mailbox of {user}')
        for _, recipients, body in self.hop.messages if self.hop else ():
            token = re.search(rb'\bL\d{3}E\b', body)
            token = token.group().decode() if token else '?'
            copies += [(token, to) for to in recipients]
            letter = next((one for one in self.letters if one.token == token), None)
            plain = b'\r\n'.join(line[1:] if line.startswith(b'.') else line for line in body.split(b'\r\n'))
            if letter and self.body_of(letter) not in plain:
                bad.append(f'{token} is cut at the next hop')
        return copies, notes, bad

    def body_of(self, letter):
        return letter.text().replace(b'leading', letter.word.encode() or b'leading').split(b'\r\n\r\n', 1)[1]

    def expected(self, letter):
        return [one for to in letter.taken for one in
                (['alice@home.example', 'bob@home.example', 'carol@home.example'] if to.startswith('team@') else [to])]

    def is_settled(self):
        """Has every accepted message come to its end, and every letter an answer?"""
        copies, notes, _ = self.found()
        if self.scenario.name == 'ambiguous' and self.sessions < 2:
            return False    # a copy is there before the server knows of it
        for letter in self.letters:
            if not letter.accepted and not letter.refused:
                return False
            for to in self.expected(letter) if letter.accepted else ():
                if (letter.token, to) not in copies and (letter.token, to, 'failed') not in notes:
                    return False
        return True

    def settle(self, patience_s=PATIENCE_S):
        """Without a fault from here on: clients try again, and all comes to its end and the queue is empty."""
        end, wait = time.monotonic() + patience_s, 0.05
        again, hurry = 0.0, time.monotonic() + patience_s / 2
        while time.monotonic() < end:
            if time.monotonic() >= again:
                self.send_all()
                again, wait = time.monotonic() + wait, min(2 * wait, 1)
            if self.is_settled() and self.queue_is_empty():
                return True
            if time.monotonic() > hurry:        # it waits for its next try, minutes ahead: what holds it back must let go when told
                hurry = end
                try:
                    self.server.run('retry', '--all')
                except subprocess.SubprocessError:
                    pass        # that it does not answer is seen by what does not come
            self.pause()
        return False

    def queue_is_empty(self):
        return queued(os.path.join(self.folder, 'spool')) == 0

    def judge(self, ambiguous=0):
        """Problems, as text. `ambiguous`: how many events allow a copy more at a next hop, or a message that no client
        was told of: a strike is one of each."""
        copies, notes, bad = self.found()
        problems = list(bad)
        for letter in self.letters:
            wanted = self.expected(letter)
            for to in wanted if letter.accepted else ():
                count = copies.count((letter.token, to))
                failed = notes.count((letter.token, to, 'failed'))
                if count == 0 and failed == 0 and letter.sender:
                    problems.append(f'{letter.token} to {to}: acknowledged and lost')
                if count == 0 and not letter.sender:
                    problems.append(f'{letter.token} to {to}: acknowledged and lost')
                spare = ambiguous + (1 if to.startswith('silent') else 0) if to.endswith('far.example') else 0
                spare += letter.tries - 1      # a try whose 250 was lost is a message of its own
                if count > letter.accepted + spare:
                    problems.append(f'{letter.token} to {to}: {count} copies')
                if failed > 1 + letter.tries - 1:
                    problems.append(f'{letter.token} to {to}: {failed} notifications')
                if failed and not to.startswith(('no', 'never', 'silent')):
                    problems.append(f'{letter.token} to {to}: bounced for nothing')
            for to, line in letter.refused.items():
                if letter.word != 'INFECTED':
                    problems.append(f'{letter.token} to {to}: refused: {line}')
            if letter.word == 'INFECTED' and (letter.accepted or any(token == letter.token for token, _ in copies)):
                problems.append(f'{letter.token} is infected and was taken')
            if self.doors and letter.accepted and not any(letter.token.encode() in text for text in self.scanned):
                problems.append(f'{letter.token} was taken unscanned')
        return problems

    def close(self):
        self.closed = True
        self.server.kill()
        if self.hop:
            self.hop.close()
        if self.doors:
            self.doors.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, *fault):
        self.close()
