#!/usr/bin/env python3
"""TLS on the way out, against real Postfix and Exim, zones that knot signed, and a real web server with MTA-STS policies: DANE
right, wrong, unusable, expired, forged and stripped; MTA-STS likewise, from memory too; what is said in clear, what never is; the
reports; logging in at a next hop."""
import json
import os
import shutil
import tempfile

import lib_peers

if __name__ == '__main__':
    for tool in ('knotd', 'keymgr', 'kzonesign'):
        if not shutil.which(tool):
            lib_peers.skip(f'{tool} is absent')
    lib_peers.enter(__file__, lib_peers.Postfix, lib_peers.Exim)

from lib import Checks, Client, Server, wait_until
from lib_hop import NextHop
from lib_signed import Authority, PolicyHost, SignedZones, tlsa_of

checks = Checks()
NAMES, POLICIES, BARE, EXPIRED = '127.0.0.54', '127.0.0.40', '127.0.0.30', '127.0.0.31'
NEVER = 'tls.policy.unmet'


class AnyPostfix(lib_peers.Postfix):
    """Takes mail for every domain."""

    def __init__(self, certificate, key):
        super().__init__(extra='')
        self.extra = (f'virtual_mailbox_domains = static:all\nvirtual_mailbox_maps = static:{self.mailbox}/\n'
                      f'smtpd_tls_security_level = may\nsmtpd_tls_cert_file = {certificate}\nsmtpd_tls_key_file = {key}\n')
        self.configure()


class AnyExim(lib_peers.Exim):
    def __init__(self, certificate, key):
        super().__init__(extra=f'tls_advertise_hosts = *\ntls_certificate = {certificate}\ntls_privatekey = {key}\n')
        self.domain = '*'
        self.configure()


PEERS = {'p': '127.0.0.11', 'e': '127.0.0.12'}


def flipped(tlsa):
    return tlsa[:-1] + ('0' if tlsa[-1] != '0' else '1')


def zones_of(authority, certificates):
    """({zone: rows}, {policy host: policy}, names that the peers' certificates have)."""
    signed, plain, stale, forged, policies = [], [], [], [], {}

    def host(rows, name, ip, tlsa=None):
        rows += [(name, 'MX', f'10 mx.{name}'), (f'mx.{name}', 'A', ip)]
        if tlsa:
            rows.append((f'_25._tcp.mx.{name}', 'TLSA', tlsa))

    def policy(name, text):
        plain.extend([(f'_mta-sts.{name}', 'TXT', '"v=STSv1; id=1;"'), (f'mta-sts.{name}', 'A', POLICIES)])
        policies[f'mta-sts.{name}.plain'] = text

    for word, ip in PEERS.items():
        right = tlsa_of(certificates[word][0])
        host(signed, f'right-{word}', ip, right)
        host(signed, f'anchor-{word}', ip, authority.tlsa())
        host(signed, f'wrong-{word}', ip, flipped(right))
        host(signed, f'unusable-{word}', ip, '1 1 1 ' + right.split()[3])
        host(signed, f'none-{word}', ip)
        signed += [(f'alias-{word}', 'MX', f'10 mx.alias-{word}'), (f'mx.alias-{word}', 'CNAME', f'mx.right-{word}')]
        host(stale, f'over-{word}', ip, right)
        host(forged, f'forged-{word}', ip, right)
        host(plain, f'open-{word}', ip)
        for name in ('sts', 'stsname', 'stsmx', 'ststest'):
            host(plain, f'{name}-{word}', ip)
        policy(f'sts-{word}', f'version: STSv1\nmode: enforce\nmx: *.sts-{word}.plain\nmax_age: 86400\n')
        policy(f'stsname-{word}', f'version: STSv1\nmode: enforce\nmx: mx.stsname-{word}.plain\nmax_age: 86400\n')
        policy(f'stsmx-{word}', 'version: STSv1\nmode: enforce\nmx: mx.elsewhere.plain\nmax_age: 86400\n')
        policy(f'ststest-{word}', f'version: STSv1\nmode: testing\nmx: mx.ststest-{word}.plain\nmax_age: 86400\n')
    host(signed, 'stripped', BARE, tlsa_of(certificates['p'][0]))
    host(signed, 'bare', BARE)
    host(signed, 'old', EXPIRED, tlsa_of(certificates['old'][0]))
    host(plain, 'stsstripped', BARE)
    host(plain, 'stsold', EXPIRED)
    host(plain, 'stsuntrusted', BARE)
    for name in ('stsstripped', 'stsold', 'stsuntrusted'):
        policy(name, f'version: STSv1\nmode: enforce\nmx: mx.{name}.plain\nmax_age: 86400\n')
    return {'example': signed, 'plain': plain, 'stale': stale, 'forged': forged}, policies


def send(server, domain):
    with Client(server.address('smtp')) as client:
        client.command('EHLO client.example')
        client.command('MAIL FROM:<alice@rcpt.test>')
        reply = client.command(f'RCPT TO:<box@{domain}>')
        assert reply.code == 250, reply
        client.command('DATA')
        client.send(f'Subject: to {domain}\r\n\r\nhello\r\n.\r\n')
        assert client.reply().code == 250
        client.command('QUIT')


def outcome(server, domain):
    """The event that tells what came of the message to that domain."""
    def ended():
        found = [event for name in ('delivery.done', 'delivery.deferred', 'delivery.failed')
                 for event in server.events(name) if event.get('to') == f'box@{domain}']
        return found and found[-1]
    return wait_until(f'an outcome for {domain}', ended)


def expect_done(server, domain, peer=None, tls=True):
    event = outcome(server, domain)
    assert event['event'] == 'delivery.done', event
    assert bool(event.get('tls')) == tls or 'tls' not in event, event
    if peer:
        wait_until('the mail', lambda: [mail for mail in peer.mails() if f'Subject: to {domain}'.encode() in mail])


def expect_deferred(server, domain, words='', cause=NEVER):
    event = outcome(server, domain)
    assert event['event'] == 'delivery.deferred' and event['cause'] == cause, event
    assert words in event.get('text', ''), event


def by_the_records(server, peers):
    for word, peer in peers.items():
        for domain in (f'right-{word}.example', f'anchor-{word}.example', f'alias-{word}.example', f'unusable-{word}.example',
                       f'none-{word}.example', f'open-{word}.plain', f'sts-{word}.plain', f'ststest-{word}.plain'):
            checks.run(f'{peer.name}: {domain} gets its mail', lambda: expect_done(server, domain, peer))
        for domain, words in ((f'wrong-{word}.example', 'TLSA'), (f'over-{word}.stale', ''), (f'forged-{word}.forged', ''),
                              (f'stsname-{word}.plain', 'ostname'), (f'stsmx-{word}.plain', 'does not name')):
            checks.run(f'{peer.name}: {domain} is deferred', lambda: expect_deferred(server, domain, words))
        checks.ok(f'{peer.name} got nothing else', not [mail for mail in peer.mails()
                                                       for name in ('wrong-', 'over-', 'forged-', 'stsname-', 'stsmx-') if b'Subject: to ' + name.encode() in mail])
    checks.run('DANE stripped of STARTTLS is deferred', lambda: expect_deferred(server, 'stripped.example', 'STARTTLS'))
    checks.run('MTA-STS stripped of STARTTLS is deferred', lambda: expect_deferred(server, 'stsstripped.plain', 'STARTTLS'))
    checks.run('without a policy mail goes in clear', lambda: expect_done(server, 'bare.example', tls=False))
    checks.run('a policy that cannot be trusted is none', lambda: expect_done(server, 'stsuntrusted.plain', tls=False))
    checks.run('usage 3 does not look at dates', lambda: expect_done(server, 'old.example'))
    checks.run('MTA-STS does', lambda: expect_deferred(server, 'stsold.plain', 'expired'))


def nothing_in_clear(bare):
    said = {line[8:].rstrip('>').lstrip('<') for hop in bare.hops for line in hop.lines if line.startswith('RCPT TO:')}
    assert said == {'box@bare.example', 'box@stsuntrusted.plain'}, said


def reports(server):
    def all_kept():
        code, text, _ = server.run('tls-report', '--json')
        found = {report['policies'][0]['policy']['policy-domain']: report for report in map(json.loads, text.splitlines())}
        return len(found) >= 20 and found
    found = wait_until('the results to be kept', all_kept)

    def row(domain, kind):
        return next(policy for policy in found[domain]['policies'] if policy['policy']['policy-type'] == kind)
    right = row('right-p.example', 'tlsa')
    assert right['summary'] == {'total-successful-session-count': 1, 'total-failure-session-count': 0}, right
    assert right['policy']['policy-string'][0].startswith('3 1 1 '), right
    sts = row('sts-p.plain', 'sts')
    assert sts['policy']['mx-host'] == ['*.sts-p.plain'] and sts['policy']['policy-string'][0] == 'version: STSv1', sts
    for domain, kind, failure in (('wrong-p.example', 'tlsa', 'certificate-not-trusted'), ('stripped.example', 'tlsa', 'starttls-not-supported'),
                                  ('stsname-e.plain', 'sts', 'certificate-host-mismatch'), ('stsold.plain', 'sts', 'certificate-expired'),
                                  ('ststest-p.plain', 'sts', 'certificate-host-mismatch'), ('stsuntrusted.plain', 'sts', 'sts-webpki-invalid')):
        details = row(domain, kind)['failure-details']
        assert [detail['result-type'] for detail in details] == [failure], (domain, details)
        assert found[domain]['organization-name'] == 'mx.test'
    code, text, _ = server.run('tls-report', 'stsold.plain')
    assert 'sts              0 good, 1 failed' in text and 'certificate-expired at mx.stsold.plain[127.0.0.31]' in text, text


def routes(server):
    for domain, level, by in (('right-p.example', 'prove', 'dane'), ('unusable-e.example', 'encrypt', 'dane'), ('open-p.plain', 'may', ''),
                              ('sts-e.plain', 'prove', 'mta-sts'), ('ststest-e.plain', 'may', 'mta-sts test'), ('stsmx-p.plain', 'unusable', 'mta-sts')):
        code, text, why = server.run('route', f'box@{domain}', '--json')
        host = json.loads(text)['hosts'][0]
        assert (host['tls'], host['by']) == (level, by), (domain, text, why)
    code, text, _ = server.run('route', 'box@over-p.stale')
    assert code == 1 and NEVER in text, text
    code, text, _ = server.run('route', 'box@sts-p.plain')
    assert 'MTA-STS: mode enforce' in text and 'proved to be the host' in text, text


CONFIG = '''relay {{ from = {{"127.0.0.0/8"}} }}
resolver {{ forward = {{"{names}"}}  timeout = 5s  trust_anchor = "{anchor}" }}
tls {{ authorities = "{authority}" }}
retry {{ schedule = {{1h}} }}
limits {{ connections_per_client = 1000 }}
'''


def without_tls(hop):
    hop.say('220 bare')
    hop.serve()


def expired(certificate, key):
    def script(hop):
        hop.say('220 old')
        hop.line()
        hop.say('250-old\r\n250 STARTTLS')
        if hop.line() == 'STARTTLS':
            hop.say('220 go')
            hop.start_tls(certificate, key)
        hop.serve()
    return script


def everything(server, peers, bare):
    for word in PEERS:
        for name in ('right', 'anchor', 'alias', 'unusable', 'none', 'wrong'):
            send(server, f'{name}-{word}.example')
        for name in ('open', 'sts', 'ststest', 'stsname', 'stsmx'):
            send(server, f'{name}-{word}.plain')
        send(server, f'over-{word}.stale')
        send(server, f'forged-{word}.forged')
    for domain in ('stripped.example', 'bare.example', 'old.example', 'stsstripped.plain', 'stsold.plain', 'stsuntrusted.plain'):
        send(server, domain)
    by_the_records(server, peers)
    checks.run('nothing was said in clear where that is forbidden', lambda: nothing_in_clear(bare))
    checks.run('the results make reports', lambda: reports(server))
    checks.run('route shows what would be demanded', lambda: routes(server))


def from_memory(server, peers):
    """After a restart, with the policy's host gone and the peer stripped of TLS: the policy of before still holds."""
    peers['p'].stop()
    server.stop()
    server.start()
    with NextHop(without_tls, port=25, host=PEERS['p']) as stripped:
        send(server, 'sts-p.plain')
        expect_deferred(server, 'sts-p.plain', 'STARTTLS')
        assert not [line for hop in stripped.hops for line in hop.lines if line.startswith('MAIL')]
        send(server, 'open-p.plain')
        expect_done(server, 'open-p.plain', tls=False)


def main():
    folder = tempfile.mkdtemp(prefix='holdfast-tls-')
    os.chmod(folder, 0o755)
    authority = Authority(folder)
    names = ['mx.right-{}.example', 'mx.anchor-{}.example', 'mx.sts-{}.plain']
    certificates = {word: authority.issue(word, [name.format(word) for name in names]) for word in PEERS}
    certificates['old'] = authority.issue('old', ['mx.old.example', 'mx.stsold.plain'], days=-1)
    records, policies = zones_of(authority, certificates)
    hosts = [name for name in policies if 'untrusted' not in name]
    web = authority.issue('web', hosts)
    peers = {'p': AnyPostfix(*certificates['p']), 'e': AnyExim(*certificates['e'])}
    zones = SignedZones(folder, NAMES, records, signed={'example', 'stale', 'forged'}, stale={'stale'}, forged={'forged'})
    config = CONFIG.format(names=NAMES, anchor=zones.anchor, authority=authority.file)
    with zones, peers['p'], peers['e'], Server(extra=config) as server, NextHop(without_tls, port=25, host=BARE) as bare, \
            NextHop(expired(*certificates['old']), port=25, host=EXPIRED):
        with PolicyHost(POLICIES, 443, *web, policies) as host:
            everything(server, peers, bare)
            checks.ok('policies were fetched from where they belong', {path for _, path in host.asked} == {'/.well-known/mta-sts.txt'}, host.asked)
        checks.run('a policy is remembered', lambda: from_memory(server, peers))
    shutil.rmtree(folder, ignore_errors=True)
    return checks.done()


if __name__ == '__main__':
    raise SystemExit(main())
