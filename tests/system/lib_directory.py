"""Real directories for the fault tests: a slapd and a PostgreSQL on loopback, each in a folder of its own, ended by pid.

    with Slapd(PEOPLE) as slapd:                 # .port, .stop(), .start(), .freeze(), .thaw()
    with Postgres('CREATE TABLE ...') as server: # .uri(), .sql(text), .start(), .stop(), .freeze(), .thaw()

skip_without(checks, *programs) says whether a program is missing, as a printed SKIP."""
import glob
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time

from lib import wait_until
from lib_faults import Mail, free_port

SLAPD = shutil.which('slapd', path='/usr/sbin:/usr/lib/openldap:/usr/local/libexec:' + os.environ.get('PATH', ''))


def postgres_program(name):
    found = sorted(glob.glob(f'/usr/lib/postgresql/*/bin/{name}'))
    return found[-1] if found else shutil.which(name)


def skip_without(checks, what, *programs):
    if all(programs):
        return False
    checks.skip(what, f'{what} is not installed')
    return True


def answers(port):
    try:
        socket.create_connection(('127.0.0.1', port), timeout=1).close()
        return True
    except OSError:
        return False


def process_tree(pid):
    """The process and its children."""
    pids = [pid]
    for stat in glob.glob('/proc/[0-9]*/stat'):
        try:
            with open(stat) as file:
                fields = file.read().rsplit(')', 1)[1].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            pids.append(int(stat.split('/')[2]))
    return pids


def thread_states(pid):
    """The state letters of a process's threads; SIGSTOP takes a moment to reach those on another core."""
    states = set()
    for stat in glob.glob(f'/proc/{pid}/task/[0-9]*/stat'):
        try:
            with open(stat) as file:
                states.add(file.read().rsplit(')', 1)[1].split()[0])
        except OSError:
            continue
    return states - {'Z', 'X'}


class Daemon:
    """A process of ours that is started, stopped and frozen."""
    process = None

    def freeze(self):
        pids = process_tree(self.process.pid)
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        wait_until('it to stand still', lambda: all(thread_states(pid) <= {'T'} for pid in pids))

    def thaw(self):
        for pid in process_tree(self.process.pid):
            os.kill(pid, signal.SIGCONT)

    def stop(self, how=signal.SIGTERM):
        if self.process is None or self.process.poll() is not None:
            return
        self.process.send_signal(how)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.thaw()
            self.process.kill()
            self.process.wait()

    def __enter__(self):
        return self

    def __exit__(self, *fault):
        if self.process is not None and self.process.poll() is None:
            self.thaw()
        self.stop(self.LAST)
        shutil.rmtree(self.folder, ignore_errors=True)


def tls_certificate(folder, name='server'):
    """A self-signed certificate for 127.0.0.1; (None, None) without openssl."""
    certificate, key = os.path.join(folder, name + '.pem'), os.path.join(folder, name + '.key')
    if not shutil.which('openssl'):
        return None, None
    subprocess.run(['openssl', 'req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-keyout', key,
                    '-out', certificate, '-days', '30', '-subj', '/CN=127.0.0.1', '-addext', 'subjectAltName=IP:127.0.0.1'],
                   check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return certificate, key


class Slapd(Daemon):
    LAST = signal.SIGTERM
    SUFFIX = 'dc=home,dc=example'
    ADMIN = 'cn=admin,' + SUFFIX

    def __init__(self, ldif, settings='', tls=True):
        self.folder = tempfile.mkdtemp(prefix='holdfast-slapd-')
        self.port, self.tls_port = free_port(), free_port()
        self.certificate, key = tls_certificate(self.folder) if tls else (None, None)
        os.mkdir(os.path.join(self.folder, 'data'))
        schema = ''.join(f'include /etc/ldap/schema/{name}.schema\n' for name in ('core', 'cosine', 'nis', 'inetorgperson', 'misc'))
        secure = f'TLSCertificateFile {self.certificate}\nTLSCertificateKeyFile {key}\n' if self.certificate else ''
        self.config = os.path.join(self.folder, 'slapd.conf')
        with open(self.config, 'w') as file:
            file.write(f'{schema}{secure}pidfile {self.folder}/pid\nmodulepath /usr/lib/ldap\nmoduleload back_mdb\n'
                       f'database mdb\nmaxsize 16777216\nsuffix "{self.SUFFIX}"\nrootdn "{self.ADMIN}"\nrootpw secret\n'
                       f'directory {self.folder}/data\nindex mail,cn eq\n{settings}\n')
        subprocess.run([SLAPD, '-T', 'add', '-f', self.config], input=ldif.encode(), check=True,
                       stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        self.start()

    def start(self):
        urls = f'ldap://127.0.0.1:{self.port}' + (f' ldaps://127.0.0.1:{self.tls_port}' if self.certificate else '')
        self.process = subprocess.Popen([SLAPD, '-f', self.config, '-h', urls, '-d', '0'], stdin=subprocess.DEVNULL,
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_until('slapd to answer', lambda: answers(self.port))


class Postgres(Daemon):
    LAST = signal.SIGINT  # fast: ends the sessions

    def __init__(self, sql):
        self.folder = tempfile.mkdtemp(prefix='holdfast-postgres-')
        self.port = free_port()
        self.user = self._user()
        os.chmod(self.folder, 0o755)
        secret = os.path.join(self.folder, 'secret')
        with open(secret, 'w') as file:
            file.write('secret\n')
        if self.user:
            for path in (self.folder, secret):
                shutil.chown(path, self.user)
        self.data = os.path.join(self.folder, 'data')
        self._run([postgres_program('initdb'), '-D', self.data, '-U', 'holdfast', '-A', 'scram-sha-256', '--pwfile', secret, '-E', 'UTF8',
                   '--locale=C', '-N'])
        self.start()
        self.sql(sql)

    @staticmethod
    def _user():
        """PostgreSQL refuses to run as root."""
        if os.geteuid() != 0:
            return None
        for name in ('postgres', 'nobody'):
            try:
                return pwd.getpwnam(name).pw_name
            except KeyError:
                continue
        return None

    def _run(self, command):
        subprocess.run(command, check=True, user=self.user, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                       stderr=subprocess.PIPE)

    def start(self):
        self.process = subprocess.Popen([postgres_program('postgres'), '-D', self.data, '-p', str(self.port), '-c', 'listen_addresses=127.0.0.1',
                                         '-c', 'unix_socket_directories=', '-c', 'fsync=off', '-c', 'max_connections=40'], user=self.user,
                                        cwd=self.folder, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_until('PostgreSQL to answer', lambda: self.try_sql('SELECT 1'))

    def uri(self, rest='', password='secret', database='postgres'):
        return f'postgresql://holdfast:{password}@127.0.0.1:{self.port}/{database}{rest}'

    def psql(self, text):
        return [postgres_program('psql'), '-X', '-q', '-A', '-t', '-v', 'ON_ERROR_STOP=1', '-d', self.uri(), '-c', text]

    def try_sql(self, text):
        return subprocess.run(self.psql(text), stdin=subprocess.DEVNULL, capture_output=True).returncode == 0

    def sql(self, text):
        done = subprocess.run(self.psql(text), stdin=subprocess.DEVNULL, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()


class Load:
    """`sessions` clients at once that send to known and unknown users until told to end. What must never be: a 5yz for
    somebody who exists, a 2yz for somebody who does not, a reply that is no reply."""

    def __init__(self, server, sessions=200, known='alice@home.example', unknown='nobody@home.example'):
        self.server, self.known, self.unknown = server, known, unknown
        self.ending, self.lock = threading.Event(), threading.Lock()
        self.replies, self.wrong = {'known': [], 'unknown': []}, []
        self.threads = [threading.Thread(target=self._session, args=(number,), daemon=True) for number in range(sessions)]
        for thread in self.threads:
            thread.start()

    def _session(self, number):
        kind = 'unknown' if number % 4 == 0 else 'known'
        mail = Mail(to=self.unknown if kind == 'unknown' else self.known, source=f'127.0.1.{number % 200 + 1}')
        try:
            while not self.ending.is_set():
                reply, _ = mail.play(self.server)
                with self.lock:
                    self.replies[kind].append(reply.code)
                    if reply.code // 100 not in ((2, 4) if kind == 'known' else (4, 5)):
                        self.wrong.append((kind, reply.lines))
        except (AssertionError, OSError) as fault:
            with self.lock:
                self.wrong.append((kind, repr(fault)))

    def count(self, kind=None, family=None):
        with self.lock:
            return sum(1 for one in (kind,) if one for code in self.replies[one] if family is None or code // 100 == family)

    def wait(self, what, kind, family, more=50):
        """Until `more` further replies of that kind came."""
        before = self.count(kind, family)
        wait_until(what, lambda: self.wrong or self.count(kind, family) >= before + more, patience_s=90)
        assert not self.wrong, self.wrong[:3]

    def _is_read(self, marks):
        """A server whose journal nobody reads fast enough drops lines: until one of ours came through, nothing can be
        said by what the journal lacks."""
        marks[0] += 1
        mark = f'mark{marks[0]}-{id(self)}@client.example'
        Mail(sender=mark, to=self.unknown).play(self.server)
        end = time.monotonic() + 2
        while time.monotonic() < end:
            if any(mark in line for line in self.server.lines[-200:]):
                return True
            time.sleep(0.05)
        return False

    def end(self):
        self.ending.set()
        for thread in self.threads:
            thread.join(90)
        marks = [0]
        wait_until('the journal to be read up to now', lambda: self._is_read(marks), patience_s=90)
        # The journal of the load is a hundred thousand lines: parsing them at each look would starve its reader.
        with self.server.changed:
            self.server.lines = [line for line in self.server.lines if 'listening' in line or 'server.started' in line]
        assert not any(thread.is_alive() for thread in self.threads), 'a session hangs'
        assert not self.wrong, self.wrong[:3]
