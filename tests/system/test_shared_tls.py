#!/usr/bin/env python3
"""Domains that share their hosts and differ in what they ask of TLS: one with DANE (zones that knot signed) or MTA-STS, one with
neither, on the very same host. Whichever comes first, the other gets a connection and a TLS session of its own; two that ask for
the same share both. The host is scripted, so that it can tell connections and resumed sessions apart."""
import os
import shutil
import ssl
import tempfile
import threading

import lib_peers

if __name__ == '__main__':
    for tool in ('knotd', 'keymgr', 'kzonesign'):
        if not shutil.which(tool):
            lib_peers.skip(f'{tool} is absent')
    lib_peers.enter(__file__)

from lib import PATIENCE_S, Checks, Server, wait_until
from lib_hop import NextHop
from lib_signed import Authority, PolicyHost, SignedZones, tlsa_of
from test_sending_tls import send

checks = Checks()
ROUNDS = 6
NAMES, POLICIES = '127.0.0.54', '127.0.0.40'
POLICY = 'version: STSv1\nmode: enforce\nmx: mx.{host}\nmax_age: 86400\n'

# host: (the zone of the host, first domain, second domain, do they share). A domain in `example` comes with a signed MX; `sts-` has a policy.
PAIRS = {
    'dane-first': ('example', 'a.dane-first.example', 'a-dane-first.plain', False),
    'dane-last': ('example', 'a-dane-last.plain', 'a.dane-last.example', False),
    'sts-first': ('plain', 'sts-a-sts-first.plain', 'b-sts-first.plain', False),
    'sts-last': ('plain', 'b-sts-last.plain', 'sts-a-sts-last.plain', False),
    'dane-both': ('example', 'a.dane-both.example', 'b.dane-both.example', True),
    'open-both': ('plain', 'a-open-both.plain', 'b-open-both.plain', True),
}


def zones_of(certificate):
    records, policies = {'example': [], 'plain': []}, {}
    for number, (host, (zone, first, second, _)) in enumerate(PAIRS.items()):
        records[zone].append((f'mx.{host}', 'A', address_of(host)))
        if zone == 'example':
            records[zone].append((f'_25._tcp.mx.{host}', 'TLSA', tlsa_of(certificate)))
        for domain in (first, second):
            owner, own = domain.rsplit('.', 1)
            records[own].append((owner, 'MX', f'10 mx.{host}.{zone}.'))
            if domain.startswith('sts-'):
                records['plain'] += [(f'_mta-sts.{owner}', 'TXT', '"v=STSv1; id=1;"'), (f'mta-sts.{owner}', 'A', POLICIES)]
                policies[f'mta-sts.{domain}'] = POLICY.format(host=f'{host}.{zone}')
    return records, policies


def address_of(host):
    return f'127.0.0.{41 + list(PAIRS).index(host)}'


class Host(NextHop):
    """One TLS context for all connections, as a server has, so that its tickets are good for the next one. While the gate is
    closed the final dot is not answered."""

    def __init__(self, host, certificate, key):
        self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.tls.load_cert_chain(certificate, key)
        self.gate, self.dots = threading.Event(), 0
        self.gate.set()
        super().__init__(self.play, port=25, host=address_of(host))

    def play(self, hop):
        hop.resumed, hop.domains = None, []
        hop.say('220 shared')
        hop.line()
        hop.say('250-shared\r\n250 STARTTLS')
        if hop.line() == 'STARTTLS':
            hop.say('220 go')
            hop.socket = self.tls.wrap_socket(hop.socket, server_side=True)
            hop.pending, hop.resumed = b'', hop.socket.session_reused
        while True:
            line = hop.line()
            if line.startswith('RCPT TO:'):
                hop.domains.append(line[8:].split('>')[0].split('@')[1])
            if line == 'DATA':
                hop.say('354 go')
                hop.body()
                self.dots += 1
                assert self.gate.wait(PATIENCE_S), 'the gate stayed closed'
            if not line or line == 'QUIT':
                hop.say('221 bye')
                return
            hop.say('250 ok')

    def with_mail(self):
        return [hop for hop in self.hops if getattr(hop, 'domains', None)]


def delivered(server, domain, count):
    server.wait_events('delivery.done', count, to=f'box@{domain}')


def round_of(server, host, first, second, count):
    """The second domain's mail is there when the first one's connection becomes free, and no other may be opened beside it."""
    before = host.dots
    host.gate.clear()
    send(server, first)
    wait_until(f'the dot of {first}', lambda: host.dots > before)
    send(server, second)
    host.gate.set()
    for domain in (first, second):
        delivered(server, domain, count)


def shared(host):
    return [hop for hop in host.with_mail() if len(set(hop.domains)) > 1]


def differs(server, host, first, second):
    round_of(server, host, first, second, 1)
    with_mail = host.with_mail()
    assert not shared(host), [hop.domains for hop in with_mail]
    assert [set(hop.domains) for hop in with_mail] == [{first}, {second}], [hop.domains for hop in with_mail]
    assert [hop.resumed for hop in with_mail] == [False, False], 'a session of the other domain was resumed'
    # Once more, the other way round: each finds its own session, and neither the other's connection.
    round_of(server, host, second, first, 2)
    again = host.with_mail()[2:]
    assert not shared(host), [hop.domains for hop in again]
    assert again and all(hop.resumed for hop in again), [(hop.domains, hop.resumed) for hop in again]
    for number in range(3, 3 + ROUNDS):     # by now the two are known to have the same hosts
        round_of(server, host, *((first, second) if number % 2 else (second, first)), number)
        assert not shared(host), [hop.domains for hop in host.with_mail()]


def same(server, host, first, second):
    """What would make the checks above pass for nothing: connections and sessions are shared where that is right. Whether the second
    one's mail is taken up before a kept connection ends is a matter of a second, so there are several rounds."""
    for number in range(1, 3 + ROUNDS):
        round_of(server, host, first, second, number)
        if shared(host):
            break
    print(f'# shared in round {number}', flush=True)
    assert shared(host), [hop.domains for hop in host.with_mail()]
    wait_until('the connection to end', lambda: all(hop.lines[-1] == 'QUIT' for hop in host.with_mail()))
    send(server, first)                     # which had a session opened for it
    delivered(server, first, number + 1)
    assert host.with_mail()[-1].resumed, 'the session of the same demand was not resumed'


CONFIG = '''relay {{ from = {{"127.0.0.0/8"}} }}
resolver {{ forward = {{"{names}"}}  timeout = 5s  trust_anchor = "{anchor}" }}
tls {{ authorities = "{authority}" }}
retry {{ schedule = {{1h}} }}
{bounds}'''


def main():
    folder = tempfile.mkdtemp(prefix='holdfast-shared-')
    os.chmod(folder, 0o755)
    authority = Authority(folder)
    hosts = [f'mx.{host}.{zone}' for host, (zone, *_) in PAIRS.items()]
    certificate, key = authority.issue('mx', hosts)
    records, policies = zones_of(certificate)
    web = authority.issue('web', list(policies))
    bounds = ''.join(f'destination "{host[3:]}" {{ connections = 1 }}\n' for host in hosts)
    zones = SignedZones(folder, NAMES, records, signed={'example'})
    config = CONFIG.format(names=NAMES, anchor=zones.anchor, authority=authority.file, bounds=bounds)
    with zones, PolicyHost(POLICIES, 443, *web, policies), Server(extra=config) as server:
        for name, (zone, first, second, share) in PAIRS.items():
            with Host(name, certificate, key) as host:
                play = same if share else differs
                checks.run(f'{name}: {first}, then {second}', lambda: play(server, host, first, second))
                checks.ok(f'{name}: the host heard nothing strange', not host.faults, host.faults)
    shutil.rmtree(folder, ignore_errors=True)
    return checks.done()


if __name__ == '__main__':
    raise SystemExit(main())
