"""Other mail servers as peers: Debian's Postfix, Exim, OpenSMTPD and chasquid, and Dovecot's LMTP, each with one mailbox.

    import lib_peers
    lib_peers.enter(__file__, lib_peers.Postfix)    # first: the test goes on inside namespaces of its own, or says SKIP
    names = lib_peers.Zone()           # what 127.0.0.53 answers; a peer adds itself
    with lib_peers.Postfix(names) as peer:
        peer.address, peer.domain, peer.box       # ('127.0.0.11', 25), 'postfix.example', 'box@postfix.example'
        peer.restart(); peer.flush(); peer.mails()  # the messages in its mailbox

The packages are only unpacked (`./run` does that, into peers/ of the build folder), never installed: they would replace this
machine's mail server. Inside the namespaces an overlay shows them under /usr as if they were installed, another one gives
/etc their users and a resolv.conf that names 127.0.0.53; the network is a loopback of its own, so that port 25 is free.
What a peer writes lies in the folder of the test; nothing of the machine is changed.
"""
import ctypes
import glob
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

from lib import ROOT, PATIENCE_S, wait_until
from lib_dns import ScriptedDns

BUILD = os.environ.get('HOLDFAST_BUILD', os.path.join(ROOT, 'build'))
UNPACKED = os.path.join(BUILD, 'peers')
PACKAGES = sorted(os.listdir(UNPACKED)) if os.path.isdir(UNPACKED) else []
INSIDE = 'HOLDFAST_INSIDE_PEERS'
RESOLVER = ('127.0.0.53', 53)
USERS = {'postfix': 61001, 'postdrop': 61002, 'Debian-exim': 61003, 'opensmtpd': 61004, 'opensmtpq': 61005, 'chasquid': 61006, 'peerbox': 61007}


# ------------------------------------------------------------------ the namespaces

def skip(why):
    print(f'SKIP {why}')
    print('0 passed, 0 failed, 1 skipped')
    raise SystemExit(0)


def enter(script, *peers):
    """Starts the script again inside mount and network namespaces of its own, and ends this process with its exit code. There
    it sets them up and returns. peers: the classes that it cannot do without."""
    if os.environ.get(INSIDE):
        set_up(os.environ[INSIDE])
        return
    missing = [peer.package for peer in peers if peer.package not in PACKAGES]
    if missing:
        skip(f'{" ".join(missing)}: not unpacked; ./run test does it')
    if os.geteuid() != 0 or subprocess.run(['unshare', '-m', '-n', 'true'], stderr=subprocess.DEVNULL).returncode != 0:
        skip('namespaces need root')
    folder = tempfile.mkdtemp(prefix='holdfast-peers-')
    os.chmod(folder, 0o755)
    try:
        # The shell is process 1 there: it collects what a daemon that went into the background leaves.
        done = subprocess.run(['unshare', '-m', '-n', '-p', '-f', '--kill-child', '--mount-proc', 'sh', '-c', '"$@"; exit $?', 'sh',
                               sys.executable, script, *sys.argv[1:]], env={**os.environ, INSIDE: folder})
        raise SystemExit(done.returncode)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def mount_over(target, lower, folder):
    """An overlay over `target`: `lower` beneath, what is written goes into `folder`."""
    upper, work = os.path.join(folder, 'upper'), os.path.join(folder, 'work')
    os.makedirs(upper, exist_ok=True)
    os.makedirs(work, exist_ok=True)
    # What is unpacked comes first: a package that is installed as well hides nothing.
    subprocess.run(['mount', '-t', 'overlay', 'overlay', '-o', f'lowerdir={":".join([*lower, target])},upperdir={upper},workdir={work}', target], check=True)


def add_users():
    with open('/etc/passwd', 'a') as users, open('/etc/group', 'a') as groups:
        for name, number in USERS.items():
            try:
                pwd.getpwnam(name)
            except KeyError:
                users.write(f'{name}:x:{number}:{number}::/var/empty:/usr/sbin/nologin\n')
            groups.write(f'{name}:x:{number}:\n')
    with open('/etc/shadow', 'a') as shadow:
        shadow.writelines(f'{name}:*:19000::::::\n' for name in USERS)


def set_up(folder):
    unpacked = [os.path.join(UNPACKED, name, 'usr') for name in PACKAGES]
    mount_over('/usr', [path for path in unpacked if os.path.isdir(path)], os.path.join(folder, 'usr'))
    mount_over('/etc', [], os.path.join(folder, 'etc'))
    mount_over('/var', [], os.path.join(folder, 'var'))
    subprocess.run(['ip', 'link', 'set', 'lo', 'up'], check=True)
    for number in range(10, 60):        # Postfix looks for its address among the interface's
        subprocess.run(['ip', 'address', 'add', f'127.0.0.{number}/8', 'dev', 'lo'], check=True)
    add_users()
    if os.path.lexists('/etc/resolv.conf'):
        os.remove('/etc/resolv.conf')
    write('/etc/resolv.conf', f'nameserver {RESOLVER[0]}\n')
    os.makedirs('/var/empty', exist_ok=True)
    ctypes.CDLL(None).__res_init()


def write(path, text, mode=0o644):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, 'w') as file:
        file.write(text)
    os.chmod(path, mode)


def listens(address):
    try:
        with socket.create_connection(address, timeout=2) as connection:
            connection.settimeout(2)
            return connection.recv(3) == b'220'
    except OSError:
        return False


def owned(path, user):
    os.makedirs(path, exist_ok=True)
    shutil.chown(path, user, user)
    return path


class Zone:
    """The DNS of the namespaces: `add` gives a domain its MX and that host its address."""

    def __init__(self):
        self.server = ScriptedDns({}, address=RESOLVER)

    def add(self, domain, host, ip):
        self.server.script.update({(domain, 'MX'): f'10 {host}', (host, 'A'): ip, (host, None): 'EMPTY', (domain, None): 'EMPTY'})

    def close(self):
        self.server.close()


# ------------------------------------------------------------------ one peer

class Peer:
    """A mail server with the mailbox box@NAME.example. It relays everything else by MX. `extra`: lines for its configuration.

    Its processes are all those below the one that we started; stop() ends them by pid and waits for them."""
    name = package = queue = ''
    number = 0

    def __init__(self, names=None, extra=''):
        self.folder = os.path.join(os.environ[INSIDE], self.name)
        os.makedirs(self.folder, exist_ok=True)
        os.chmod(self.folder, 0o755)
        self.ip = f'127.0.0.{self.number}'
        self.address, self.domain, self.host = (self.ip, 25), f'{self.name}.example', f'mx.{self.name}.example'
        self.box, self.mailbox = f'box@{self.domain}', owned(os.path.join(self.folder, 'box'), 'peerbox')
        self.extra, self.process = extra, None
        self.log = open(os.path.join(self.folder, 'log'), 'ab')
        if names is not None:
            names.add(self.domain, self.host, self.ip)
        self.configure()

    def configure(self):
        """Sets `queue`, too, for who relays."""
        raise NotImplementedError

    def command(self):
        raise NotImplementedError

    def start(self):
        self.process = subprocess.Popen(self.command(), stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log, start_new_session=True)
        wait_until(f'{self.name} to listen', self.is_up)
        return self

    def is_up(self):
        assert self.process.poll() is None, f'{self.name} ended: {self.said()}'
        return listens(self.address)

    def said(self):
        with open(os.path.join(self.folder, 'log'), errors='replace') as file:
            return file.read()[-2000:]

    def stop(self):
        if self.process is None:
            return
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.kill_session()
        self.process = None

    def kill_session(self):
        """What is left of its session: children that a daemon leaves behind."""
        session = self.process.pid

        def left():
            found = []
            for path in glob.glob('/proc/[0-9]*/stat'):
                try:
                    with open(path) as file:
                        fields = file.read().rsplit(')', 1)[1].split()
                except OSError:
                    continue
                if int(fields[3]) == session and fields[0] != 'Z':
                    found.append(int(path.split('/')[2]))
            return found

        for pid in left():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        wait_until(f'the children of {self.name} to end', lambda: not left())

    def restart(self):
        self.stop()
        self.when_down()
        self.start()

    def when_down(self):
        """Called between the end of one life and the next; a test may put something of its own here."""

    def held(self):
        """The messages in its queue, by their X-Id, while it is down. (Postfix has more behind the number.)"""
        found = set()
        for folder, _, names in os.walk(self.queue):
            for path in (os.path.join(folder, name) for name in names):
                if os.path.isfile(path):        # Postfix has sockets and pipes there
                    with open(path, 'rb') as file:
                        found |= set(re.findall(rb'X-Id: ([a-z]+-[a-z]+-\d+)', file.read()))
        return {ident.decode() for ident in found}

    def flush(self):
        """Try all that waits now."""

    def way_out(self, recipient):
        """Where to write to here for a message to a recipient elsewhere."""
        return recipient

    def mails(self):
        return read_maildir(self.mailbox)

    def __enter__(self):
        return self.start()

    def __exit__(self, kind, value, trace):
        self.stop()
        if kind is not None:
            print(f'# {self.name} said:\n# ' + self.said().replace('\n', '\n# '), file=sys.stderr)
        self.log.close()


def read_maildir(folder):
    """Every message of a Maildir, as bytes."""
    found = []
    for sub in ('new', 'cur'):
        for path in glob.glob(os.path.join(folder, sub, '*')):
            try:
                with open(path, 'rb') as file:
                    found.append(file.read())
            except FileNotFoundError:       # moved from new to cur
                continue
    return found


# ------------------------------------------------------------------ Postfix

class Postfix(Peer):
    name, package, number = 'postfix', 'postfix', 11
    SERVICES = '''
{ip}:25   inet  n - n - 200 smtpd
pickup    unix  n - n 60 1 pickup
cleanup   unix  n - n - 0 cleanup
qmgr      unix  n - n 300 1 qmgr
tlsmgr    unix  - - n 1000? 1 tlsmgr
rewrite   unix  - - n - - trivial-rewrite
bounce    unix  - - n - 0 bounce
defer     unix  - - n - 0 bounce
trace     unix  - - n - 0 bounce
verify    unix  - - n - 1 verify
flush     unix  n - n 1000? 0 flush
proxymap  unix  - - n - - proxymap
smtp      unix  - - n - - smtp
relay     unix  - - n - - smtp
showq     unix  n - n - - showq
error     unix  - - n - - error
retry     unix  - - n - - error
discard   unix  - - n - - discard
virtual   unix  - n n - - virtual
anvil     unix  - - n - 1 anvil
scache    unix  - - n - 1 scache
postlog   unix-dgram n - n - 1 postlogd
'''
    MAIN = '''
compatibility_level = 3.7
queue_directory = {folder}/queue
data_directory = {folder}/data
command_directory = /usr/sbin
daemon_directory = /usr/lib/postfix/sbin
shlib_directory = /usr/lib/postfix
meta_directory = {folder}/etc
mail_owner = postfix
setgid_group = postdrop
myhostname = {host}
mydestination =
local_recipient_maps =
alias_maps =
alias_database =
inet_interfaces = {ip}
inet_protocols = ipv4
smtp_bind_address = {ip}
mynetworks = 127.0.0.0/8
maillog_file = {folder}/mail.log
maillog_file_prefixes = /tmp, /var
virtual_mailbox_domains = {domain}
virtual_mailbox_base = /
virtual_mailbox_maps = inline:{{ {{ {box} = {mailbox}/ }} }}
virtual_uid_maps = static:{uid}
virtual_gid_maps = static:{uid}
smtpd_peername_lookup = no
smtpd_client_connection_count_limit = 0
smtpd_client_connection_rate_limit = 0
smtpd_client_event_limit_exceptions = static:all
smtpd_relay_restrictions = permit_mynetworks, reject
smtpd_error_sleep_time = 0
default_process_limit = 50
minimal_backoff_time = 2s
maximal_backoff_time = 4s
queue_run_delay = 2s
transport_retry_time = 1s
default_destination_concurrency_failed_cohort_limit = 1000
smtp_skip_5xx_greeting = no
in_flow_delay = 0
biff = no
'''

    def configure(self):
        etc = os.path.join(self.folder, 'etc')
        os.makedirs(etc, exist_ok=True)
        owned(os.path.join(self.folder, 'data'), 'postfix')
        self.queue = os.path.join(self.folder, 'queue')
        os.makedirs(self.queue, exist_ok=True)
        names = {**self.__dict__, 'uid': USERS['peerbox']}
        write(os.path.join(etc, 'main.cf'), self.MAIN.format(**names) + self.extra)
        write(os.path.join(etc, 'master.cf'), self.SERVICES.format(**names))
        for name in ('postfix-files', 'dynamicmaps.cf'):
            source = f'{UNPACKED}/postfix/etc/postfix/{name}'
            write(os.path.join(etc, name), open(source).read() if os.path.exists(source) else '')
        self.say('set-permissions', 'create-missing')

    def say(self, *words):
        """Postfix's own tools; permissions of files that only an installation has do not matter here."""
        return subprocess.run(['postfix', '-c', os.path.join(self.folder, 'etc'), *words], stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log).returncode

    def start(self):
        assert self.say('start') == 0, self.said()
        wait_until('postfix to listen', self.is_up)
        return self

    def is_up(self):
        return listens(self.address)

    def master(self):
        try:
            with open(os.path.join(self.folder, 'queue/pid/master.pid')) as file:
                pid = int(file.read())
            os.kill(pid, 0)
            return pid
        except (OSError, ValueError):
            return None

    def stop(self):
        if self.master():
            self.say('stop')
            wait_until('postfix to end', lambda: not self.master())

    def flush(self):
        self.say('flush')


# ------------------------------------------------------------------ Exim

class Exim(Peer):
    name, package, number = 'exim', 'exim4-daemon-light', 12
    CONFIG = '''
primary_hostname = {host}
exim_path = /usr/sbin/exim4
spool_directory = {folder}/spool
log_file_path = {folder}/exim-%s
pid_file_path = {folder}/exim.pid
daemon_smtp_ports = 25
local_interfaces = {ip}
domainlist local_domains = {domain}
smtp_accept_max = 300
smtp_accept_max_per_connection = 0
smtp_accept_queue_per_connection = 0
smtp_reserve_hosts =
rfc1413_hosts =
rfc1413_query_timeout = 0s
host_lookup =
queue_run_max = 5
keep_environment =
message_logs = false
never_users =
acl_smtp_rcpt = accept
acl_smtp_data = accept
{extra}
begin acl
begin routers
box:
  driver = accept
  domains = +local_domains
  transport = box
mx:
  driver = dnslookup
  ignore_target_hosts =
  self = send
  same_domain_copy_routing = yes
  transport = out
begin transports
box:
  driver = appendfile
  directory = {mailbox}
  maildir_format
  create_directory
  user = peerbox
  group = peerbox
out:
  driver = smtp
  interface = {ip}
  hosts_try_prdr =
  hosts_try_fastopen =
begin retry
* * F,1d,1s
'''
    TLS = ''

    def configure(self):
        self.queue = owned(os.path.join(self.folder, 'spool'), 'Debian-exim')
        shutil.chown(self.folder, 'root', 'Debian-exim')
        os.chmod(self.folder, 0o775)
        write('/etc/exim4/exim4.conf', self.CONFIG.format(**self.__dict__))

    def command(self):
        return ['/usr/sbin/exim4', '-bdf', '-q2s']

    def start(self):
        """The paths for exim's configuration and its set-user-id bit are those of an installation; the overlay allows both."""
        os.chmod('/usr/sbin/exim4', 0o4755)
        return super().start()

    def flush(self):
        subprocess.run(['/usr/sbin/exim4', '-qff'], stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)


# ------------------------------------------------------------------ OpenSMTPD

class OpenSmtpd(Peer):
    name, package, number, flushes = 'opensmtpd', 'opensmtpd', 13, 0
    CONFIG = '''
smtp max-message-size 50M
queue ttl 1d
mta limit conn-delay-route 0 conn-delay-relay 0 reconn-delay-route 0 session-mail-max 1000 max-conn-per-route 20
table boxes {{ box = peerbox, postmaster = peerbox }}
table users {{ peerbox = "{uid}:{uid}:{mailbox}" }}
listen on {ip} port 25 hostname {host}
action "box" maildir "{mailbox}" virtual <boxes> userbase <users>
action "out" relay src {ip} helo {host}
match from any for domain "{domain}" action "box"
match from any for any action "out"
'''

    def configure(self):
        self.queue = '/var/spool/smtpd/queue'
        os.makedirs('/var/spool/smtpd', exist_ok=True)
        os.chmod('/var/spool/smtpd', 0o711)
        for name, mode, owner in (('queue', 0o700, 'opensmtpq'), ('corrupt', 0o700, 'opensmtpq'), ('offline', 0o770, 'root'), ('purge', 0o700, 'opensmtpq')):
            path = f'/var/spool/smtpd/{name}'
            os.makedirs(path, exist_ok=True)
            os.chmod(path, mode)
            shutil.chown(path, owner, 'opensmtpq' if name == 'offline' else 'root')
        shutil.chown('/usr/sbin/smtpctl', 'root', 'opensmtpq')     # as its installation does
        os.chmod('/usr/sbin/smtpctl', 0o2755)
        os.makedirs('/var/lib/opensmtpd/empty', exist_ok=True)
        os.makedirs('/run/smtpd', exist_ok=True)
        with open('/etc/passwd') as file:
            users = re.sub(r'(?m)^(opensmtp[dq]:.*):/var/empty:', r'\1:/var/lib/opensmtpd/empty:', file.read())
        write('/etc/passwd', users)
        write('/etc/mailname', self.host + '\n')
        self.config = os.path.join(self.folder, 'smtpd.conf')
        write(self.config, self.extra + self.CONFIG.format(**self.__dict__, uid=USERS['peerbox']), 0o600)

    def command(self):
        return ['/usr/sbin/smtpd', '-d', '-f', self.config]

    def flush(self):
        """What it has read of its queue is tried now; it reads that by and by after a start. A route that was bad is forgotten by
        a new start alone, so each fourth time brings one."""
        self.flushes += 1
        if self.flushes % 4 == 0:
            self.restart()
        for _ in range(4):
            wait_until('opensmtpd to listen to smtpctl', lambda: self.control('schedule', 'all') == 0)
            time.sleep(0.25)

    def control(self, *words):
        return subprocess.run(['/usr/sbin/smtpctl', *words], stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log).returncode


# ------------------------------------------------------------------ chasquid

class Chasquid(Peer):
    """It has no way to be told "try now" but a new start, which tries all that waits. It relays only for those who logged in,
    and what an alias sends elsewhere; hold@ is such an alias."""
    name, package, number = 'chasquid', 'chasquid', 14
    CONFIG = '''
hostname: "{host}"
smtp_address: "{ip}:25"
max_data_size_mb: 50
data_dir: "{folder}/data"
mail_log_path: "{folder}/mail.log"
mail_delivery_agent_bin: "{folder}/keep"
'''
    # Into the mailbox as a Maildir is written: whole in tmp/, then into new/.
    KEEP = '''#!/bin/sh
set -eu
name=$(date +%s).$$.$(cat /proc/sys/kernel/random/uuid)
cat > {mailbox}/tmp/$name
mv {mailbox}/tmp/$name {mailbox}/new/$name
'''

    def configure(self):
        self.config, self.queue = os.path.join(self.folder, 'etc'), os.path.join(self.folder, 'data/queue')
        for path in ('data', 'etc/certs/' + self.host, 'etc/domains/' + self.domain):
            os.makedirs(os.path.join(self.folder, path), exist_ok=True)
        for path in ('tmp', 'new', 'cur'):
            owned(os.path.join(self.mailbox, path), 'peerbox')
        write(os.path.join(self.config, 'chasquid.conf'), self.CONFIG.format(**self.__dict__) + self.extra)
        write(os.path.join(self.folder, 'keep'), self.KEEP.format(**self.__dict__), 0o755)
        write(os.path.join(self.config, 'domains', self.domain, 'aliases'), 'hold: box@hold.example\n')
        certificate = os.path.join(self.config, 'certs', self.host)
        subprocess.run(['openssl', 'req', '-x509', '-newkey', 'rsa:2048', '-nodes', '-days', '30', '-subj', f'/CN={self.host}',
                        '-addext', f'subjectAltName=DNS:{self.host}', '-keyout', f'{certificate}/privkey.pem', '-out', f'{certificate}/fullchain.pem'],
                       check=True, stdout=self.log, stderr=self.log)
        subprocess.run(['chasquid-util', f'--configdir={self.config}', 'user-add', self.box, '--password=secret'], check=True, stdout=self.log, stderr=self.log)

    def command(self):
        return ['/usr/bin/chasquid', f'--config_dir={self.config}']

    def flush(self):
        self.restart()

    def way_out(self, recipient):
        assert recipient == 'box@hold.example', recipient
        return f'hold@{self.domain}'


# ------------------------------------------------------------------ Dovecot's LMTP

class Dovecot(Peer):
    """LMTP on port 24; it delivers and never relays."""
    name, number = 'dovecot', 15
    CONFIG = '''
base_dir = {folder}/run
state_dir = {folder}/state
log_path = {folder}/dovecot.log
protocols = lmtp
ssl = no
mail_location = maildir:{mailbox}
default_internal_user = peerbox
default_internal_group = peerbox
default_login_user = nobody
first_valid_uid = 1
postmaster_address = postmaster@{domain}
lmtp_rcpt_check_quota = no
passdb {{
  driver = static
  args = nopassword=y
}}
userdb {{
  driver = static
  args = uid=peerbox gid=peerbox home={folder}/home allow_all_users=yes
}}
service lmtp {{
  user = peerbox
  inet_listener lmtp {{
    address = {ip}
    port = 24
  }}
}}
service stats {{
  chroot =
}}
service anvil {{
  chroot =
}}
'''

    def configure(self):
        self.address = (self.ip, 24)
        owned(os.path.join(self.folder, 'home'), 'peerbox')
        self.config = os.path.join(self.folder, 'dovecot.conf')
        write(self.config, self.CONFIG.format(**self.__dict__) + self.extra)

    def command(self):
        return ['dovecot', '-F', '-c', self.config]
