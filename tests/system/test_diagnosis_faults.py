#!/usr/bin/env python3
"""More rows of the fault matrix seen from a terminal: directories that are down, frozen or locked, a spool whose disk fails, no
descriptors left, certificates that expired. One command says cause, side and what to do; that is done, and the mail moves again."""
import collections
import os
import re
import shutil
import sqlite3
import subprocess

from lib import Checks, Client, wait_until
from lib_directory import SLAPD, Postgres, Slapd, postgres_program, skip_without
from lib_faults import FaultServer, Mail, expect_accepted, expect_healed, free_port
from lib_hop import NextHop
from test_diagnosis import sees, steps, type_in, well
from test_faults_filter import FakeClamd
from test_faults_ldap import LDIF, users
from test_faults_postgresql import TABLES
from test_faults_spool import Disk, can_mount, spool_on

checks = Checks()
SETTLE = 'incidents { settle = 200ms }\n'


# ------------------------------------------------------------------ receiving

def directory(server, source, strike, mend, *words):
    """The fault in one look, with the source's place and its own words; the command that is told says the same until it is mended."""
    expect_accepted(server, Mail())
    strike()
    reply, stage = Mail().play(server)
    assert reply.code == 451 and stage == 'rcpt', reply
    server.wait_events('incident.open')
    text = server.run('why', '--in')[1]
    sees(text, 'directory.unavailable', '(side: ours)', f'at {source}', 'means:', 'do:', 'alice@home.example', 'for client 127.0.0.1', *words)
    command, = [step for step in steps(text) if 'alias expand' in step]
    code, out, err = type_in(server, command)
    assert code != 0, f'the directory is not there, and {command} says: {out}'
    sees(out + err, *words)
    mend()
    code, out, err = type_in(server, command)
    assert code == 0, out + err
    expect_healed(server, Mail())
    server.wait_events('incident.closed')
    sees(server.run('why', '--in')[1], '1 came back', '0 still out')


def ldap_down():
    with Slapd(LDIF, tls=False) as slapd, FaultServer(SETTLE, users=users(slapd)) as server:
        directory(server, 'ldap://', slapd.stop, slapd.start, "Can't contact LDAP server")


def postgres_frozen():
    with Postgres(TABLES) as database, FaultServer(SETTLE, users=database.uri('?table=users')) as server:
        directory(server, 'postgresql://', database.freeze, database.thaw, 'did not answer in time')


def sqlite_locked():
    server = FaultServer(SETTLE, users='sqlite:{folder}/users.db?table=users', start=False)
    with sqlite3.connect(os.path.join(server.folder, 'users.db'), isolation_level=None) as database:
        database.execute('CREATE TABLE users(address TEXT, password TEXT)')
        database.execute("INSERT INTO users VALUES('alice@home.example', '')")
        server.start()
        with server:
            directory(server, os.path.join(server.folder, 'users.db'), lambda: database.execute('BEGIN EXCLUSIVE'), lambda: database.execute('COMMIT'), 'database is locked')


def filter_refused():
    """Connection refused; a filter is started on that port, and the command that was told says so."""
    port = free_port()
    with FaultServer(f'filter av {{ speaks = clamd  address = "127.0.0.1:{port}"  timeout = 1s }}\n{SETTLE}') as server:
        assert Mail().play(server)[0].code in (451, 421)
        server.wait_events('incident.open')
        text = server.run('why', '--in')[1]
        sees(text, 'filter.unreachable', '(side: ours)', 'at av', 'Connection refused', 'do:')
        command, = [step for step in steps(text) if 'filter test' in step]
        assert type_in(server, command)[0] != 0
        fake = FakeClamd(port)
        try:
            assert type_in(server, command)[0] == 0
            expect_healed(server, Mail())
            server.wait_events('incident.closed')
        finally:
            fake.close()


def given_up(server):
    """Until the server takes no mail for a disk that fails (a spare segment that cannot be made is enough); what it said instead
    is in the failure."""
    said = collections.Counter()

    def down():
        reply, stage = Mail().play(server)
        said[f'{stage}: {reply.lines[-1][:60]}'] += 1
        return '(spool.down)' in reply.lines[-1] or '(spool.failed)' in reply.lines[-1] and stage == 'mail'
    try:
        wait_until('the spool to be given up', down)
    except AssertionError as fault:
        raise AssertionError(f'{fault}; it said {dict(said)}; status: {server.run("status")[1]}') from fault


def disk_fails(strike):
    """The history is on the disk that fails: each command says so, and what is said heals it."""
    with Disk() as disk:
        server = spool_on(disk, SETTLE)
        try:
            expect_accepted(server, Mail())
            strike(disk)
            given_up(server)
            for words in (('why', '--in'), ('incidents',), ('status',)):
                _, out, err = server.run(*words)
                sees(out + err, '(side: ours)', f'at spool {disk.at}/spool', 'said:', 'means:', 'disk', f'df -h {disk.at}/spool',
                     'kernel')
                assert 'spool.down (' in out + err or 'spool.failed (' in out + err, out + err
            server.kill()
            disk.unmount()
            disk.mount()
            server.start()
            command, = [step for step in steps(out) if step.startswith('holdfast')]
            code, out, err = type_in(server, command)
            assert code == 0 and 'at spool' not in out, out
            expect_accepted(server, Mail())
            server.stop()
        finally:
            server.kill()
            shutil.rmtree(server.folder, ignore_errors=True)


def descriptors():
    """Fewer descriptors than the configuration's sessions: `status` says that it is those, and a restart with more heals."""
    server = FaultServer(SETTLE, command=('prlimit', '--nofile=256:256'))
    clients = []
    with server:
        try:
            while True:
                clients.append(Client(server.address()))
                if clients[-1].banner.code != 220:
                    break
            sees(clients[-1].banner.lines[-1], 'server.busy')
            server.wait_events('incident.open')
            text = server.run('why', '--in')[1]
            sees(text, 'server.busy', '(side: ours)', 'descriptors', 'holdfast status')
            told = server.run('status')[1]
            sees(told, 'server.busy (ours)', f'{len(clients) - 1} session(s) of at most {len(clients) - 1} (the limit of open files', 'LimitNOFILE')
            server.stop()
            server.command = ['prlimit', '--nofile=1024:1024']
            server.start()
            more = [Client(server.address()) for _ in clients]
            assert all(client.banner.code == 220 for client in more)
            for client in more:
                client.socket.close()
            expect_healed(server, Mail())
        finally:
            for client in clients:
                client.socket.close()


# ------------------------------------------------------------------ certificates

def certificate(folder, days_from, days_to):
    """Self-signed for 127.0.0.1, valid between those days from now; the file names."""
    files = os.path.join(folder, 'own.pem'), os.path.join(folder, 'own.key')
    request, serials = os.path.join(folder, 'own.csr'), os.path.join(folder, 'serials')
    subprocess.run(['openssl', 'req', '-new', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-keyout', files[1],
                    '-out', request, '-subj', '/CN=127.0.0.1', '-addext', 'subjectAltName=IP:127.0.0.1'], check=True, capture_output=True)
    settings = os.path.join(folder, 'ca.conf')
    with open(settings, 'w') as file:
        file.write(f'[ca]\ndefault_ca = own\n[own]\ndatabase = {folder}/index\nnew_certs_dir = {folder}\nserial = {serials}\n'
                   'rand_serial = yes\ndefault_md = sha256\npolicy = any\nunique_subject = no\ncopy_extensions = copy\n'
                   '[any]\ncommonName = supplied\n')
    open(os.path.join(folder, 'index'), 'w').close()

    def stamp(days):
        return subprocess.run(['date', '-u', '-d', f'{days} days', '+%Y%m%d%H%M%SZ'], check=True, capture_output=True, text=True).stdout.strip()
    subprocess.run(['openssl', 'ca', '-batch', '-config', settings, '-selfsign', '-keyfile', files[1], '-in', request, '-out', files[0],
                    '-notext', '-startdate', stamp(days_from), '-enddate', stamp(days_to)], check=True, capture_output=True)
    return files


def own_certificate_expired():
    """Clients that verify go away without a word; `status` says it."""
    server = FaultServer(SETTLE + 'tls { certificate = "{folder}/own.pem"  key = "{folder}/own.key" }\n', start=False)
    certificate(server.folder, -30, -1)
    server.start()
    with server:
        server.wait_events('incident.open')
        text = server.run('incidents')[1]
        sees(text, 'certificate.expired (side: ours)', f'at {server.folder}/own.pem', 'means:', 'do:', 'holdfast reload')
        text = server.run('status')[1]
        sees(text, 'certificate: EXPIRED', '(side: ours)', 'section tls', 'holdfast reload')
        certificate(server.folder, -1, 30)
        assert type_in(server, re.search(r'`(holdfast reload)`', text).group(1))[0] == 0
        assert 'EXPIRED' not in server.run('status')[1]
        server.wait_events('incident.closed')
        with Client(server.address()) as client:
            client.command('EHLO c.example')
            assert client.command('STARTTLS').code == 220
            client.start_tls()
            assert client.command('EHLO c.example').code == 250
        expect_accepted(server, Mail())


def starts_tls(files):
    def script(hop):
        hop.say('220 hop')
        hop.line()
        hop.say('250-hop\r\n250 STARTTLS')
        if hop.line() == 'STARTTLS':
            hop.say('220 go')
            hop.start_tls(*files)
        hop.serve()
    return script


def hop_certificate_expired():
    """tls = verify, and the next hop's certificate is over: theirs, never sent in clear, and sent when they renew it."""
    server = FaultServer(start=False)
    files = certificate(server.folder, -30, -1)
    behaviour = {'script': starts_tls(files)}
    with NextHop(lambda hop: behaviour['script'](hop)) as hop:
        with open(server.config, 'a') as file:
            file.write(f'tls {{ authorities = "{server.folder}/trusted.pem" }}\nrelay {{ from = {{"127.0.0.0/8"}} }}\n'
                       f'route "far.example" {{ via = "smtp:127.0.0.1:{hop.port}"  tls = verify }}\nretry {{ schedule = {{1h}}  jitter = 0 }}\n')
        shutil.copy(files[0], os.path.join(server.folder, 'trusted.pem'))
        server.start()
        with server:
            Mail(to='x@far.example').play(server)
            message = server.wait_events('delivery.deferred')[0]['message']
            text = server.run('why', message)[1]
            sees(text, 'cause tls.policy.unmet (theirs)', 'expired', f'127.0.0.1:{hop.port}', f'holdfast retry {message}', 'do:')
            assert not hop.messages, 'it was sent'
            shutil.copy(certificate(server.folder, -1, 30)[0], os.path.join(server.folder, 'trusted.pem'))
            assert server.run('reload')[0] == 0
            assert type_in(server, f'holdfast retry {message}')[0] == 0
            server.wait_events('delivery.done', 1, message=message)


def main():
    checks.run('filters: refused, and started', filter_refused)
    if not skip_without(checks, 'slapd', SLAPD):
        checks.run('directory: LDAP down', ldap_down)
    if not skip_without(checks, 'PostgreSQL', postgres_program('postgres'), postgres_program('initdb')):
        checks.run('directory: PostgreSQL frozen', postgres_frozen)
    checks.run('directory: SQLite locked', sqlite_locked)
    if can_mount():
        checks.run('spool: read-only', lambda: disk_fails(Disk.abort))
        checks.run('spool: I/O errors', lambda: disk_fails(Disk.shut_down))
    else:
        checks.skip('spool: a disk that fails', 'no loop mount here (needs root and mkfs.ext4)')
    checks.run('machine: no descriptors left', descriptors)
    if not skip_without(checks, 'openssl', shutil.which('openssl')):
        checks.run('TLS: our certificate expired', own_certificate_expired)
        checks.run('TLS: the next hop\'s certificate expired', hop_certificate_expired)
    return checks.done()


if __name__ == '__main__':
    raise SystemExit(main())
