#!/usr/bin/env python3
"""The fault matrix seen from a terminal: for each dependency a fault is made, one command names the cause, the side and what to
run; the fault is mended as it says, what it says is run, and the mail arrives. And docs/451.md is what the program prints."""
import os
import re
import shutil
import subprocess

from lib import HOLDFAST, ROOT, Checks, Client, wait_until
from lib_dns import SERVFAIL, ScriptedDns
from lib_faults import FaultServer, Mail, expect_healed, free_port
from lib_hop import NextHop
from lib_nameservers import Bind, Knot, Nsd
from test_faults_filter import FakeClamd
from test_faults_spool import Disk, can_mount, refused_until, spool_on

checks = Checks()


def sees(text, *words):
    for word in words:
        assert word in text, f'{word!r} is not in:\n{text}'


def steps(text):
    """The commands that the text tells to run, as typed."""
    return [match.strip() for match in re.findall(r'^\s+((?:holdfast|df|openssl|timedatectl)\b[^#\n]+?)\s+# ', text, re.M)]


def type_in(server, command):
    words = command.split()
    assert words[0] == 'holdfast', command
    return server.run(*words[1:])


# ------------------------------------------------------------------ receiving: one look at `why --in`

def filters(answer, cause):
    fake = FakeClamd()
    try:
        with FaultServer(f'filter av {{ speaks = clamd  address = "{fake.address}"  timeout = 1s }}\n'
                         'incidents { settle = 200ms }\n') as server:
            fake.answer = answer
            reply, _ = Mail().play(server)
            assert reply.code in (451, 421) and reply.lines[-1].endswith(f'({cause})'), reply
            server.wait_events('incident.open')
            text = server.run('why', '--in')[1]
            sees(text, cause, '(side: ours)', 'at av', 'means:', 'do:', '1 still out', 'alice@home.example')
            command, = [step for step in steps(text) if 'filter test' in step]
            sees(type_in(server, command)[1], cause)
            fake.answer = 'stream: OK\0'
            assert type_in(server, command)[0] == 0, 'the filter is mended, and the same command says otherwise'
            expect_healed(server, Mail())
            server.wait_events('incident.closed')
            sees(server.run('why', '--in')[1], '1 came back', '0 still out')
    finally:
        fake.close()


def filter_refused():
    port = free_port()
    with FaultServer(f'filter av {{ speaks = clamd  address = "127.0.0.1:{port}"  timeout = 1s }}\nincidents {{ settle = 200ms }}\n') as server:
        Mail().play(server)
        server.wait_events('incident.open')
        text = server.run('why', '--in')[1]
        sees(text, 'filter.unreachable', '(side: ours)', 'Connection refused', 'holdfast filter test av')


def names():
    dns = ScriptedDns({('sick.example', None): SERVFAIL})
    try:
        with FaultServer(f'checks {{ sender_domain = require }}\nresolver {{ forward = {{"127.0.0.1@{dns.port}"}}  timeout = 1s }}\n') as server:
            for _ in range(2):
                reply, _ = Mail(sender='s@sick.example').play(server)
                assert reply.code == 451, reply
            server.wait_events('incident.open')
            text = server.run('why', '--in')[1]
            sees(text, 'dns.sender.temperror', '(side: theirs)', 'at sick.example', 'holdfast dns check sick.example',
                 'holdfast dns propagation sick.example', 's@sick.example')
            dns.script[('sick.example', None)] = '10 mx.sick.example'
            dns.script[('mx.sick.example', 'A')] = '192.0.2.1'
            expect_healed(server, Mail(sender='s@sick.example'))
            server.wait_events('message.accepted')
            sees(server.run('why', '--in')[1], '1 came back')
    finally:
        dns.close()


def directory():
    server = FaultServer('incidents { settle = 200ms }\n', users='sqlite:{folder}/users.db?table=users', start=False)
    path = os.path.join(server.folder, 'users.db')
    with open(path, 'w') as file:
        file.write('no database')
    server.start()
    with server:
        reply, stage = Mail().play(server)
        assert reply.code == 451 and stage == 'rcpt', reply
        server.wait_events('incident.open')
        text = server.run('why', '--in')[1]
        sees(text, 'directory.', '(side: ours)', f'at {path}', 'means:', 'alice@home.example', '(confidence: high)')
        assert type_in(server, 'holdfast alias expand alice@home.example')[0] != 0
        assert 'holdfast alias expand alice@home.example' in steps(text), text
        command, = [step for step in steps(text) if re.match(r'holdfast why [0-9A-Z]{13}$', step)]
        story = type_in(server, command)[1]
        sees(story, 'stage=rcpt', 'holdfast alias expand alice@home.example')
        os.unlink(path)
        subprocess.run(['sqlite3', path, 'CREATE TABLE users(address TEXT, password TEXT); INSERT INTO users VALUES("alice@home.example", "");'],
                       check=True)
        assert server.run('alias', 'expand', 'alice@home.example')[0] == 0
        expect_healed(server, Mail())
        server.wait_events('incident.closed')


def spool():
    with Disk() as disk, spool_on(disk, 'incidents { settle = 200ms }\n') as server:
        filler = os.path.join(disk.at, 'filler')
        space = os.statvfs(disk.at)
        with open(filler, 'wb') as file:
            os.posix_fallocate(file.fileno(), 0, space.f_bavail * space.f_frsize - (2 << 20))
        refused_until(server, Mail(), 'spool.full')
        server.wait_events('incident.open')
        text = server.run('why', '--in')[1]
        sees(text, 'spool.full', '(side: ours)', 'at spool', 'means:', f'df -h {disk.at}/spool', f'df -i {disk.at}/spool')
        shown = subprocess.run(['df', '-h', f'{disk.at}/spool'], capture_output=True, text=True).stdout
        sees(shown, disk.at)
        os.unlink(filler)
        expect_healed(server, Mail())
        server.wait_events('incident.closed')


def machine():
    with FaultServer('limits { connections = 1 }\nincidents { settle = 200ms }\n') as server:
        with Client(server.address()):
            with Client(server.address(), banner=False) as second:
                assert second.reply().code == 421
            server.wait_events('incident.open')
            text = server.run('why', '--in')[1]
            sees(text, 'server.busy', '(side: ours)', 'as many sessions as limits { connections } allows', 'holdfast status', 'see `limits`')
            session = server.events('message.deferred')[0]['session']
            sees(server.run('why', session)[1], 'server.busy', 'stage=connect')
            sees(server.run('status')[1], '1 session(s)')
        expect_healed(server, Mail())
        server.wait_events('incident.closed')


# ------------------------------------------------------------------ sending: one look at `why ID`

def peers(script, mended, cause, *more):
    """The next hop fails by `script`; mended: replaces the script."""
    behaviour = {'script': script}
    with NextHop(lambda hop: behaviour['script'](hop)) as hop:
        with FaultServer(f'relay {{ from = {{"127.0.0.0/8"}} }}\nroute "far.example" {{ via = "smtp:127.0.0.1:{hop.port}" }}\n'
                         'retry { schedule = {1h}  jitter = 0 }\n') as server:
            Mail(to='x@far.example').play(server)
            message = server.wait_events('delivery.deferred')[0]['message']
            text = server.run('why', message)[1]
            sees(text, f'cause {cause}', '(theirs)', 'next try', 'returned to the sender after', 'means:', 'do:', f'127.0.0.1:{hop.port}',
                 f'holdfast retry {message}', 'attempt 1', *more)
            shown = [step for step in steps(text) if '--transcript' in step]
            if shown:
                sees(type_in(server, shown[0])[1], 'connected to 127.0.0.1')
            sees(server.run('why', '--dest', 'far.example')[1], cause, '1 recipient(s) wait', 'holdfast retry --dest far.example')
            behaviour['script'] = mended
            # A kept connection would still be answered by the old script.
            wait_until('the old connection to end', lambda: server.metric('holdfast_sessions', direction='out') == 0)
            assert type_in(server, f'holdfast retry {message}')[0] == 0
            server.wait_events('delivery.done', 1, message=message)
            sees(server.run('why', message)[1], f'{message}: ended', 'delivery.done')


def well(hop):
    hop.say('220 hop')
    hop.serve()


def slams(hop):
    hop.say('220 hop')
    hop.serve(ehlo=None)


def loses_the_dot(hop):
    hop.say('220 hop')
    hop.serve(dot=None)


def defers(hop):
    hop.say('220 hop')
    hop.serve(mail='451 4.3.0 Temporary server error. Please try again later')


def garbles(hop):
    hop.say('220 hop')
    hop.serve(rcpt='what a nice day')


def nobody_there():
    """Connection refused: the port is closed; then somebody listens, and the command that was told delivers."""
    port = free_port()
    with FaultServer(f'relay {{ from = {{"127.0.0.0/8"}} }}\nroute "far.example" {{ via = "smtp:127.0.0.1:{port}" }}\n'
                     'retry { schedule = {1h}  jitter = 0 }\n') as server:
        Mail(to='x@far.example').play(server)
        message = server.wait_events('delivery.deferred')[0]['message']
        server.wait_events('incident.open')
        text = server.run('why', message)[1]
        sees(text, 'cause connect.refused (theirs)', 'Incident ', 'holdfast dns check far.example', 'holdfast report ', 'stage=connect')
        with NextHop(well, port):
            assert server.run('retry', message)[0] == 0
            server.wait_events('delivery.done', 1, message=message)
            server.wait_events('incident.closed')


def report():
    """The letter has what it has to have, and a site gets one a day."""
    def deferring(hop):
        hop.say('220 hop')
        hop.serve(rcpt='451-4.3.0 Mail system is not ready\r\n451 4.3.0 Try later, ref abc123def456')
    dns = ScriptedDns({('far.example', 'MX'): '10 mx.far.example', ('mx.far.example', 'A'): '127.0.0.1',
                       ('mx.home.example', 'A'): '192.0.2.7', ('7.2.0.192.in-addr.arpa', 'PTR'): 'mx.home.example',
                       ('home.example', 'TXT'): 'v=spf1 ip4:192.0.2.7 -all', ('home.example', 'MX'): '10 mx.home.example',
                       ('_dmarc.home.example', 'TXT'): 'v=DMARC1; p=reject'})
    try:
        with NextHop(deferring) as hop:
            with FaultServer(f'relay {{ from = {{"127.0.0.0/8"}}  port = {hop.port} }}\nretry {{ schedule = {{500ms}}  jitter = 0 }}\n'
                             f'resolver {{ forward = {{"127.0.0.1@{dns.port}"}}  timeout = 1s }}\n') as server:
                Mail(sender='bob@home.example', to='x@far.example', body='the secret body').play(server)
                incident = server.wait_events('incident.open')[0]['incident']
                message = server.events('message.accepted')[0]['message']
                code, text, error = server.run('report', incident, '--server', f'127.0.0.1@{dns.port}')
                assert code == 0, (code, text, error)
                sees(text, 'To: postmaster@far.example', f'(incident {incident})',
                     'host and EHLO name: mx.home.example', 'address: 192.0.2.7, reverse name: mx.home.example (confirmed)', 'contact: postmaster@',
                     'MX 10 mx.far.example: 127.0.0.1', f'tried mx.far.example[127.0.0.1]:{hop.port}: ',
                     '451-4.3.0 Mail system is not ready', '451 4.3.0 Try later, ref abc123def456', 'stage rcpt', 'TLS: none', 'code 451',
                     'enhanced code 4.3.0', 'your id abc123def456', 'last success: none', 'rcpt  451 4.3.0  message ' + message,
                     'hosts: 1 of 1 tried failed', 'senders: 1, 1 of them never succeeded', 'sizes: failed from',
                     'SPF: home.example TXT', 'MX: home.example MX', 'DMARC: _dmarc.home.example TXT', 'PTR: 7.2.0.192.in-addr.arpa PTR', 'of 10 look-ups',
                     'at your end (confidence: high)', message, 'bob@home.example -> x@far.example', 'OUR QUESTION', '?')
                assert re.search(r'\d\dZ \(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d [+-]\d{4}\)', text), 'each attempt in UTC and with the local offset'
                assert 'secret' not in text and text.count('?\n') == 1, 'no body, one question'
                code, again, error = server.run('report', incident, '--server', f'127.0.0.1@{dns.port}')
                assert again == text and 'one report a site and day' in error, (again, error)
                code, anew, error = server.run('report', incident, '--new', '--server', f'127.0.0.1@{dns.port}')
                assert code == 0 and anew.startswith('To: postmaster@far.example') and 'one report' not in error, (code, error)
                assert server.run('report', '0000000000001')[0] == 1 and server.run('report', 'x')[0] == 2
                assert not server.events('message.accepted')[1:], 'something was sent by itself'
    finally:
        dns.close()


def own_zone(serial, txt, dmarc):
    """home.example as one name server has it."""
    return (f'$ORIGIN home.example.\n$TTL 600\n@ SOA ns1 hostmaster {serial} 3600 900 604800 300\n@ NS ns1\nns1 A 127.0.0.1\n@ MX 10 mx\nmx A 192.0.2.7\n'
            f'@ TXT "{txt}"\n_dmarc TXT "{dmarc}"\n')


def report_of_servers():
    """What three real name servers that differ say of our own records stands in the letter: each answer, its TTL, and how many said it."""
    kinds = [kind for kind in (Nsd, Knot, Bind) if shutil.which(kind.program)]
    if len(kinds) < 3:
        checks.skip('the report: three name servers', 'nsd, knot and bind9 are not all installed')
        return
    def deferring(hop):
        hop.say('220 hop')
        hop.serve(rcpt='451 4.3.0 Try later')
    dns = ScriptedDns({('far.example', 'MX'): '10 mx.far.example', ('mx.far.example', 'A'): '127.0.0.1', ('mx.home.example', 'A'): '192.0.2.7',
                       ('7.2.0.192.in-addr.arpa', 'PTR'): 'mx.home.example', ('home.example', 'TXT'): 'v=spf1 ip4:192.0.2.7 -all',
                       ('home.example', 'MX'): '10 mx.home.example', ('_dmarc.home.example', 'TXT'): 'v=DMARC1; p=reject'})
    new, old = ('v=spf1 ip4:192.0.2.7 -all', 'v=DMARC1; p=reject'), ('v=spf1 ip4:192.0.2.99 -all', 'v=DMARC1; p=reject')
    servers = []
    try:
        for kind, serial, records in zip(kinds, (7, 7, 6), (new, new, old)):
            servers.append(kind(serial, zone='home.example', text=own_zone(serial, *records)))
        with NextHop(deferring) as hop:
            with FaultServer(f'relay {{ from = {{"127.0.0.0/8"}}  port = {hop.port} }}\nretry {{ schedule = {{500ms}}  jitter = 0 }}\n'
                             f'resolver {{ forward = {{"127.0.0.1@{dns.port}"}}  timeout = 1s }}\n') as server:
                Mail(sender='bob@home.example', to='x@far.example', body='x').play(server)
                incident = server.wait_events('incident.open')[0]['incident']
                words = [word for one in servers for word in ('--server', one.at)]
                code, text, error = server.run('report', incident, *words)
                assert code == 0, (code, text, error)
                part = text[text.index('OUR OWN RECORDS'):text.index('WHERE THE FAULT')]
                spf, mx, dmarc = (part[part.index(f'  {what}: '):] for what in ('SPF', 'MX', 'DMARC'))
                sees(spf[:spf.index('  MX: ')], 'home.example TXT, NOT the same everywhere', '"v=spf1 ip4:192.0.2.7 -all"', '"v=spf1 ip4:192.0.2.99 -all"',
                     f'TTL 600 s; said by 2 authoritative server(s) ({servers[0].label}, {servers[1].label})',
                     f'TTL 600 s; said by 1 authoritative server(s) ({servers[2].label})', f'{servers[2].label}: This server is behind: ')
                sees(mx[:mx.index('  DMARC: ')], 'home.example MX', '10 mx.home.example', 'said by 3 authoritative server(s)')
                sees(dmarc[:dmarc.index('  PTR: ')], '"v=DMARC1; p=reject"', 'said by 3 authoritative server(s)')
    finally:
        for one in servers:
            one.close()
        dns.close()


def manual():
    printed = subprocess.run([HOLDFAST, 'explain', '--manual'], capture_output=True, text=True, check=True).stdout
    with open(os.path.join(ROOT, 'docs', '451.md')) as file:
        assert file.read() == printed, 'docs/451.md is not what `holdfast explain --manual` prints: write it anew'


def main():
    checks.run('docs/451.md is current', manual)
    checks.run('filters: refused', filter_refused)
    checks.run('filters: hang', lambda: filters(None, 'filter.timeout'))
    checks.run('filters: crash mid-message', lambda: filters('', 'filter.crashed'))
    checks.run('filters: half an answer', lambda: filters('stream: ', 'filter.garbled'))
    checks.run('DNS: the sender\'s domain fails', names)
    checks.run('directory: a broken table', directory)
    if can_mount():
        checks.run('spool: full', spool)
    else:
        checks.skip('spool: full', 'no loop mount here (needs root and mkfs.ext4)')
    checks.run('machine: no session left', machine)
    checks.run('peers: connection refused', nobody_there)
    checks.run('peers: 451 to MAIL', lambda: peers(defers, well, 'remote.deferred', 'Temporary server error'))
    checks.run('peers: the session breaks', lambda: peers(slams, well, 'session.lost'))
    checks.run('peers: no reply after the dot', lambda: peers(loses_the_dot, well, 'ambiguous.dot'))
    checks.run('peers: garbage', lambda: peers(garbles, well, 'remote.garbled'))
    checks.run('the report, line for line', report)
    checks.run('the report: our records as three name servers have them', report_of_servers)
    return checks.done()


if __name__ == '__main__':
    raise SystemExit(main())
