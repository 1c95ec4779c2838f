#!/usr/bin/env python3
"""`dns propagation` against three real authoritative servers, nsd, knot and bind9, on loopback: they agree; one is behind;
one is lame; one has no TCP, with and without a long TXT; one is gone; a resolver still has the old record."""
import json
import shutil
import struct
import subprocess

from lib import HOLDFAST, Checks
from lib_dns import ScriptedDns, make_query, unpack_question
from lib_nameservers import LONG, ZONE, Bind, Knot, Nsd, UdpOnly, free_port, zone_text

def ask(servers, types=('MX', 'TXT'), resolvers=(), name=ZONE, text=False):
    command = [HOLDFAST, 'dns', 'propagation', name, *types]
    for server in servers:
        command += ['--server', server.at]
    for resolver in resolvers:
        command += ['--resolver', f'127.0.0.1@{resolver.port}']
    done = subprocess.run(command + ([] if text else ['--json']), capture_output=True, timeout=120)
    assert done.returncode in (0, 1), (done.returncode, done.stderr)
    return done.returncode, done.stdout.decode() if text else json.loads(done.stdout)


def found(answer, finding, about=None):
    return [one for one in answer['findings'] if one['id'] == finding and (about is None or one['name'] == about)]


def groups(answer, kind):
    return next(type_['groups'] for type_ in answer['types'] if type_['type'] == kind)


def agree(checks, kinds):
    servers = [kind(2026010102) for kind in kinds]
    try:
        code, answer = ask(servers)
        checks.ok('all agree: exit 0, no finding', code == 0 and answer['agree'] and not answer['findings'], answer['findings'])
        checks.ok('one group with all servers', [len(group['servers']) for group in groups(answer, 'MX')] == [len(servers)], groups(answer, 'MX'))
        checks.ok('serials told', {server.get('serial') for server in answer['servers']} == {2026010102}, answer['servers'])
        ways = {(one['over'], one['result'], one['authoritative']) for server in answer['servers'] for one in server['answers']}
        checks.ok('four ways, all with authority', ways == {(way, 'NOERROR', True) for way in ('udp', 'udp+edns', 'tcp', 'tcp+edns')}, ways)
        code, answer = ask(servers, types=('A',), name=f'gone.{ZONE}')
        checks.ok('a name that is not there: they agree on that', code == 0 and groups(answer, 'A')[0]['answer'] == ['NXDOMAIN'], answer)
        code, shown = ask(servers, text=True)
        checks.ok('text says so', code == 0 and 'All agree.' in shown and 'mx.spread.example' in shown, shown)
    finally:
        for server in servers:
            server.close()


def stale(checks, kinds):
    servers = [kind(2026010102) for kind in kinds[:-1]]
    servers.append(kinds[-1](2026010101, '@ TXT "old-verification"\n'))
    try:
        code, answer = ask(servers)
        checks.ok('a stale secondary: exit 1', code == 1 and not answer['agree'], answer)
        behind = found(answer, 'propagation.stale')
        checks.ok('the stale one is named, and no other', [one['name'] for one in behind] == [servers[-1].label], behind)
        checks.ok('and for how long yet', behind and '2026010101' in behind[0]['text'] and '2026010102' in behind[0]['text'] and
                  '1 h' in behind[0]['text'] and '15 min' in behind[0]['text'], behind)
        checks.ok('TXT differs, MX does not', len(groups(answer, 'TXT')) == 2 and len(groups(answer, 'MX')) == 1, answer['types'])
        checks.ok('differs is found once a type', [one['name'] for one in found(answer, 'propagation.differs')] ==
                  [f'{ZONE} SOA', f'{ZONE} TXT'], answer['findings'])
        code, shown = ask(servers, text=True)
        checks.ok('text names who is behind', code == 1 and 'propagation.stale' in shown and servers[-1].label in shown, shown)
    finally:
        for server in servers:
            server.close()


def lame_and_gone(checks, kinds):
    servers = [kinds[0](5), kinds[-1](5, zone='other.example')]
    try:
        code, answer = ask(servers)
        checks.ok('a lame server: exit 1', code == 1, answer)
        checks.ok('it is named with what it says', [(one['name'], 'REFUSED' in one['text']) for one in found(answer, 'propagation.lame')] ==
                  [(servers[1].label, True)], answer['findings'])
        servers[1].close()
        code, answer = ask(servers)
        checks.ok('a server that is gone', code == 1 and len(found(answer, 'propagation.silent', servers[1].label)) == 1 and
                  not found(answer, 'propagation.silent', servers[0].label), answer['findings'])
    finally:
        for server in servers:
            server.close()


def no_tcp(checks, kinds):
    for kind in kinds:
        with kind(7) as server:
            gate = UdpOnly(server)
            code, answer = ask([server, gate])
            checks.ok(f'{kind.program}: TCP refused with short answers is a warning',
                      len(found(answer, 'propagation.tcp_refused', gate.label)) == 1 and code == 0 and answer['agree'], answer['findings'])
            gate.close()
        with kind(7, f'long TXT {LONG}\n') as server:
            gate = UdpOnly(server)
            code, answer = ask([server, gate], types=('TXT',), name=f'long.{ZONE}')
            cut = [one for one in answer['servers'][0]['answers'] if one['type'] == 'TXT' and one['over'] == 'udp+edns']
            checks.ok(f'{kind.program}: the long TXT is truncated over UDP', cut and cut[0]['truncated'], answer['servers'][0])
            checks.ok(f'{kind.program}: TCP refused with a long TXT is an error, and exit 1',
                      len(found(answer, 'propagation.tcp_needed', gate.label)) == 1 and code == 1, answer['findings'])
            checks.ok(f'{kind.program}: with TCP the long TXT is whole', len(groups(answer, 'TXT')) == 1 and
                      not found(answer, 'propagation.tcp_needed', server.label), answer['types'])
            gate.close()


class NoEdns(ScriptedDns):
    """Answers plain questions; FORMERR to those with an OPT record, as very old servers do."""

    def answer(self, packet):
        if struct.unpack('>H', packet[10:12])[0] > 0:
            _, _, end = unpack_question(packet)
            return packet[:2] + b'\x80\x01' + packet[4:6] + b'\0' * 6 + packet[12:end]
        answer = super().answer(packet)
        return answer[:2] + b'\x84' + answer[3:]  # with authority


def no_edns(checks, kinds):
    with kinds[0](9) as server:
        old = NoEdns({(ZONE, 'MX'): '10 mx.spread.example', (ZONE, None): 'EMPTY'})
        old.at, old.label = f'127.0.0.1@{old.port}', f'127.0.0.1:{old.port}'
        code, answer = ask([server, old], types=('MX',))
        checks.ok('a server without EDNS is told', len(found(answer, 'propagation.edns', old.label)) == 1, answer['findings'])
        old.close()


def resolver(checks, kinds):
    with kinds[0](11) as server:
        behind = ScriptedDns({(ZONE, 'MX'): '10 old.spread.example', (ZONE, None): 'EMPTY'})
        sick = ScriptedDns({(ZONE, None): 'SERVFAIL'})
        code, answer = ask([server], types=('MX',), resolvers=(behind, sick))
        late = found(answer, 'propagation.resolver_behind', f'127.0.0.1:{behind.port}')
        checks.ok('a resolver that is behind: exit 1, and how long yet', code == 1 and any('1 s' in one['text'] and 'MX' in one['text'] for one in late), answer['findings'])
        checks.ok('a resolver that fails', len(found(answer, 'propagation.resolver_failed', f'127.0.0.1:{sick.port}')) >= 1, answer['findings'])
        behind.close()
        sick.close()


PARENT = """$ORIGIN example.
$TTL 600
@ SOA ns.parent hostmaster 1 3600 900 604800 300
@ NS ns.parent
ns.parent A 127.0.0.3
spread NS ns1.spread
spread NS ns3.spread
ns1.spread A 127.0.0.1
ns3.spread A 127.0.0.4
"""


def delegation(checks, kinds):
    """The servers are found by the zone's own NS records and by the parent's, which differ."""
    names = ScriptedDns({(ZONE, 'NS'): (f'ns1.{ZONE}', f'ns2.{ZONE}'), (f'mail.{ZONE}', 'NS'): 'EMPTY', ('example', 'NS'): 'ns.parent.example',
                         ('ns.parent.example', 'A'): '127.0.0.3', **{(f'ns{n}.{ZONE}', None): 'EMPTY' for n in (1, 2, 3)},
                         (f'ns1.{ZONE}', 'A'): '127.0.0.1', (f'ns2.{ZONE}', 'A'): '127.0.0.2', (f'ns3.{ZONE}', 'A'): '127.0.0.4',
                         (f'mail.{ZONE}', 'A'): '192.0.2.9'})
    port, servers = free_port(), []
    anywhere = [kind for kind in kinds if kind is not Bind]  # named listens only on addresses that an interface has
    try:
        for kind, host, text in ((kinds[-1], '127.0.0.1', None), (anywhere[-1], '127.0.0.2', None), (anywhere[0], '127.0.0.3', PARENT)):
            servers.append(kind(3, 'mail A 192.0.2.9\n', zone='example' if text else ZONE, host=host, port=port, text=text))
        done = subprocess.run([HOLDFAST, 'dns', 'propagation', f'mail.{ZONE}.', 'A', '--resolver', f'127.0.0.1@{names.port}',
                               '--port', str(port), '--json'], capture_output=True, timeout=120)
        answer = json.loads(done.stdout)
        asked = {(server['host'], server['address'], server['kind']) for server in answer['servers']}
        checks.ok('delegation: each server by its address, and the resolver', asked == {
            (f'ns1.{ZONE}', f'127.0.0.1:{port}', 'authoritative'), (f'ns2.{ZONE}', f'127.0.0.2:{port}', 'authoritative'),
            (f'ns3.{ZONE}', f'127.0.0.4:{port}', 'authoritative'), ('', f'127.0.0.1:{names.port}', 'resolver')}, asked)
        words = [one['text'] for one in found(answer, 'propagation.delegation_differs', ZONE)]
        checks.ok('delegation: the parent names others', len(words) == 2 and any(f'ns3.{ZONE} stands only at the parent' in text for text in words)
                  and any(f'ns2.{ZONE} stands only in the zone' in text for text in words), words)
        checks.ok('delegation: the one that is not there', [one['name'] for one in found(answer, 'propagation.silent')] ==
                  [f'ns3.{ZONE} 127.0.0.4:{port}'] and done.returncode == 1, answer['findings'])
        checks.ok('delegation: the zone is told', answer['zone'] == ZONE and groups(answer, 'A')[0]['answer'] == ['192.0.2.9'], answer['types'])
    finally:
        for server in servers:
            server.close()
        names.close()


def usage(checks):
    for words in (['dns', 'propagation'], ['dns', 'propagation', ZONE, 'NOTYPE'], ['dns', 'propagation', ZONE, '--server', 'nowhere']):
        done = subprocess.run([HOLDFAST, *words], capture_output=True, timeout=60)
        checks.ok(f'usage: {" ".join(words)}', done.returncode == 2 and done.stderr, done)


def main():
    checks = Checks()
    usage(checks)
    kinds = []
    for kind in (Nsd, Knot, Bind):
        if shutil.which(kind.program):
            kinds.append(kind)
        else:
            checks.skip(kind.program, f'{kind.program} is not installed')
    if kinds:
        no_tcp(checks, kinds)
        no_edns(checks, kinds)
        resolver(checks, kinds)
    if len(kinds) > 1:
        for part in (agree, stale, lame_and_gone, delegation):
            part(checks, kinds)
    return checks.done()


if __name__ == '__main__':
    raise SystemExit(main())
