#!/usr/bin/env python3
"""`dns check`: the shape of its JSON, exit codes, the tree of SPF with the limit, the caret, MX, reverse names, keys, DMARC,
TLSA, a resolver that fails, and with --connect a real server's STARTTLS against its TLSA record. Names come from a scripted
server on loopback."""
import hashlib
import json
import os
import shutil
import subprocess
import tempfile

from lib import HOLDFAST, Checks, Server
from lib_dns import SERVFAIL, ScriptedDns

D = 'shop.example'
SOUND = {
    (D, 'MX'): '10 mx.shop.example', ('mx.shop.example', 'A'): '192.0.2.10', ('mx.shop.example', None): 'EMPTY',
    (D, 'TXT'): ('v=spf1 ip4:192.0.2.10 -all',), (D, None): 'EMPTY',
    ('_dmarc.shop.example', 'TXT'): ('v=DMARC1; p=reject; rua=mailto:dmarc@shop.example',),
    ('10.2.0.192.in-addr.arpa', 'PTR'): 'mx.shop.example',
}


def check(rows, *words, text=False, domain=D):
    """(exit code, JSON or text)"""
    names = ScriptedDns(rows)
    try:
        done = subprocess.run([HOLDFAST, 'dns', 'check', domain, '--resolver', f'127.0.0.1@{names.port}', *words,
                               *([] if text else ['--json'])], capture_output=True, timeout=120)
    finally:
        names.close()
    assert done.returncode in (0, 1), (done.returncode, done.stderr)
    return done.returncode, done.stdout.decode() if text else json.loads(done.stdout)


def found(answer, *severities):
    return sorted(one['id'] for one in answer['findings'] if one['severity'] in severities)


def about(answer, finding):
    return [one for one in answer['findings'] if one['id'] == finding]


def shape(checks):
    code, answer = check(SOUND, '--ip', '192.0.2.10')
    checks.ok('a sound domain: exit 0, nothing but info', code == 0 and not found(answer, 'error', 'warning'), answer['findings'])
    checks.ok('the members of the contract', list(answer) == ['domain', 'findings', 'mx', 'spf', 'dmarc', 'dkim', 'dane', 'mta_sts', 'tls_rpt'] or
              set(answer) == {'domain', 'findings', 'spf', 'mx', 'dmarc', 'dkim', 'dane', 'mta_sts', 'tls_rpt'}, list(answer))
    checks.ok('members of a finding', all(set(one) == {'severity', 'id', 'name', 'text', 'fix'} and all(one.values()) for one in answer['findings']), answer['findings'])
    checks.ok('no placeholder is left', not any('{' in one['text'] + one['fix'] for one in answer['findings'] if '= ...' not in one['fix']), answer['findings'])
    checks.ok('the hosts', answer['mx'] == [{'preference': 10, 'host': 'mx.shop.example', 'addresses': ['192.0.2.10'], 'alias': False}], answer['mx'])
    checks.ok('spf counts', (answer['spf']['lookups'], answer['spf']['void_lookups'], len(answer['spf']['tree'])) == (0, 0, 1), answer['spf'])
    checks.ok('the reverse name leads back', about(answer, 'ptr.confirmed'), answer['findings'])
    code, answer = check({}, domain='gone.example')
    checks.ok('a domain that does not exist', code == 1 and about(answer, 'domain.missing'), answer['findings'])


def spf(checks):
    includes = ' '.join(f'include:s{n}.example' for n in range(5))
    rows = {**SOUND, (D, 'TXT'): (f'v=spf1 mx {includes} -all',)}
    for n in range(5):
        rows[(f's{n}.example', 'TXT')] = (f'v=spf1 a:h.example a:h.example -all',) if n else ('v=spf1 ip4:192.0.2.0/24 -all',)
    rows[('h.example', 'A')] = '192.0.2.77'
    rows[('h.example', None)] = 'EMPTY'
    code, answer = check(rows)
    tree = answer['spf']['tree'][0]['tree']
    checks.ok('what each include costs', [(term['term'], term['lookups'], term['total']) for term in tree] ==
              [('mx', 1, 1), ('include:s0.example', 1, 2), ('include:s1.example', 3, 5), ('include:s2.example', 3, 8),
               ('include:s3.example', 3, 11), ('include:s4.example', 3, 14), ('-all', 0, 14)], tree)
    limit = about(answer, 'spf.too_many_lookups')
    checks.ok('where the limit of 10 is passed', code == 1 and limit and '14 in all' in limit[0]['text'] and
              '"a:h.example" in the record of s3.example' in limit[0]['text'], limit)
    code, shown = check(rows, text=True)
    checks.ok('text marks the place', 'include:s3.example  costs 3, 11 so far  <- passes the limit of 10' in shown, shown)
    record = 'v=spf1 a ip4:192.0.2.300 -all'
    code, shown = check({**SOUND, (D, 'A'): '192.0.2.1', (D, 'TXT'): (record,)}, text=True)
    lines = shown.split('\n')
    at = next(n for n, line in enumerate(lines) if line.endswith(record))
    checks.ok('a caret under the fault', lines[at + 1].index('^') == lines[at].index('192.0.2.300'), lines[at:at + 2])
    for name, value, finding in (
            ('+all', 'v=spf1 +all', 'spf.pass_all'), ('a range of everybody', 'v=spf1 ip4:0.0.0.0/0 -all', 'spf.pass_all'),
            ('?all', 'v=spf1 ?all', 'spf.neutral_all'), ('no all', 'v=spf1 ip4:192.0.2.1', 'spf.no_all'),
            ('ptr', 'v=spf1 ptr -all', 'spf.ptr'), ('a wide range', 'v=spf1 ip4:10.0.0.0/8 -all', 'spf.wide_range'),
            ('behind all', 'v=spf1 -all ip4:192.0.2.1', 'spf.after_all'), ('redirect beside all', 'v=spf1 -all redirect=x.example', 'spf.redirect_ignored'),
            ('a loop', f'v=spf1 include:{D} -all', 'spf.loop'), ('include without a record', 'v=spf1 include:none.example -all', 'spf.include_without_record'),
            ('a second redirect', 'v=spf1 redirect=a.example redirect=b.example', 'spf.syntax')):
        _, answer = check({**SOUND, (D, 'TXT'): (value,)})
        checks.ok(f'spf: {name}', about(answer, finding), found(answer, 'error', 'warning', 'info'))
    _, answer = check({**SOUND, (D, 'TXT'): ('v=spf1 -all', 'v=spf1 mx -all')})
    checks.ok('spf: two records', about(answer, 'spf.multiple'), answer['findings'])
    _, answer = check({**SOUND, (D, 'TXT'): ('v=spf1 -all', 'y' * 250, 'y' * 251)})
    checks.ok('spf: over 512 octets', about(answer, 'spf.over_512'), answer['findings'])
    _, answer = check({**SOUND, (D, 'TXT'): ('v=spf1 -all', *('y' * n for n in range(240, 246)))})
    checks.ok('spf: too long for UDP', about(answer, 'spf.too_long_for_udp'), answer['findings'])
    code, answer = check(SOUND, '--ip', '192.0.2.10', '--ip', '192.0.2.11')
    refused = about(answer, 'spf.ip_not_permitted')
    checks.ok('spf: an address that is not named', code == 1 and len(refused) == 1 and '192.0.2.11 gives spf=fail' in refused[0]['text'], refused)
    checks.ok('ptr: none', '192.0.2.11' in about(answer, 'ptr.missing')[0]['text'], answer['findings'])


def hosts(checks):
    for name, rows, finding in (
            ('null MX', {(D, 'MX'): '0 .'}, 'mx.null'), ('null MX beside others', {(D, 'MX'): ('0 .', '10 mx.shop.example')}, 'mx.null_mixed'),
            ('no MX, an address', {(D, 'MX'): 'EMPTY', (D, 'A'): '192.0.2.1'}, 'mx.implicit'), ('nothing', {(D, 'MX'): 'EMPTY'}, 'mx.none'),
            ('an alias', {('mx.shop.example', 'CNAME'): 'other.example'}, 'mx.cname'),
            ('no address', {('mx.shop.example', 'A'): 'EMPTY'}, 'mx.no_address'),
            ('an address for a name', {(D, 'MX'): '10 192.0.2.1'}, 'mx.is_address'),
            ('a private address', {('mx.shop.example', 'A'): '10.0.0.1'}, 'mx.private_address'),
            ('reverse not confirmed', {('10.2.0.192.in-addr.arpa', 'PTR'): 'h.example'}, 'ptr.unconfirmed'),
            ('a generic reverse name', {('10.2.0.192.in-addr.arpa', 'PTR'): 'c-192-0-2-10.isp.example', ('c-192-0-2-10.isp.example', 'A'): '192.0.2.10'}, 'ptr.generic'),
            ('SERVFAIL', {(D, 'MX'): SERVFAIL}, 'dns.lookup_failed')):
        _, answer = check({**SOUND, **rows}, '--ip', '192.0.2.10')
        checks.ok(f'hosts: {name}', about(answer, finding), found(answer, 'error', 'warning', 'info'))


def rsa_key(bits):
    """p= of a new key."""
    made = subprocess.run(['openssl', 'genrsa', str(bits)], capture_output=True, check=True).stdout
    public = subprocess.run(['openssl', 'rsa', '-pubout'], input=made, capture_output=True, check=True).stdout.decode()
    return ''.join(public.split('\n')[1:-2])


def records(checks):
    if shutil.which('openssl'):
        for bits, finding in ((768, 'dkim.weak'), (1024, 'dkim.short'), (2048, None)):
            rows = {**SOUND, ('s1._domainkey.shop.example', 'TXT'): (f'v=DKIM1; k=rsa; p={rsa_key(bits)}',)}
            code, answer = check(rows)
            checks.ok(f'dkim: {bits} bits', answer['dkim'] and answer['dkim'][0]['bits'] == bits and
                      [one for one in found(answer, 'error', 'warning')] == ([finding] if finding else []), answer['dkim'])
    else:
        checks.skip('dkim: lengths', 'openssl is not installed')
    key = ('mine._domainkey.shop.example', 'TXT')
    for name, rows, finding in (
            ('no key at the selector', {}, 'dkim.missing'), ('revoked', {key: ('v=DKIM1; p=',)}, 'dkim.revoked'),
            ('broken', {key: ('v=DKIM1; p=AAAA',)}, 'dkim.syntax'), ('two', {key: ('v=DKIM1; p=', 'v=DKIM1; p=AAAA')}, 'dkim.several'),
            ('dmarc pct', {('_dmarc.shop.example', 'TXT'): ('v=DMARC1; p=reject; pct=50',)}, 'dmarc.removed_tag'),
            ('dmarc without rua', {('_dmarc.shop.example', 'TXT'): ('v=DMARC1; p=reject',)}, 'dmarc.no_rua'),
            ('dmarc none', {('_dmarc.shop.example', 'TXT'): 'EMPTY'}, 'dmarc.missing'),
            ('dmarc p=none', {('_dmarc.shop.example', 'TXT'): ('v=DMARC1; p=none',)}, 'dmarc.p_none'),
            ('mta-sts', {('_mta-sts.shop.example', 'TXT'): ('v=STSv1; id=',)}, 'mta_sts.syntax'),
            ('mta-sts without a host', {('_mta-sts.shop.example', 'TXT'): ('v=STSv1; id=1',)}, 'mta_sts.no_policy_host'),
            ('tls-rpt', {('_smtp._tls.shop.example', 'TXT'): ('v=TLSRPTv1; rua=ftp:x',)}, 'tls_rpt.syntax')):
        _, answer = check({**SOUND, **rows}, '--selector', 'mine')
        checks.ok(f'records: {name}', about(answer, finding), found(answer, 'error', 'warning', 'info'))
    outside = {**SOUND, ('_dmarc.shop.example', 'TXT'): ('v=DMARC1; p=reject; rua=mailto:r@reports.net',)}
    _, answer = check(outside)
    checks.ok('dmarc: reports elsewhere, not wanted there', about(answer, 'dmarc.report_unauthorised'), answer['findings'])
    _, answer = check({**outside, ('shop.example._report._dmarc.reports.net', 'TXT'): ('v=DMARC1',)})
    checks.ok('dmarc: reports elsewhere, wanted there', not about(answer, 'dmarc.report_unauthorised'), answer['findings'])


def connect(checks):
    if not shutil.which('openssl'):
        checks.skip('dns check --connect', 'openssl is not installed')
        return
    tlsa = ('_25._tcp.mx.shop.example', 'TLSA')
    with Server() as server:
        digest = key_digest(server.certificate)
        port = str(server.address('smtp')[1])
        rows = {**SOUND, ('mx.shop.example', 'A'): '127.0.0.1'}
        _, answer = check(rows, '--connect', '--port', port)
        checks.ok('connect: STARTTLS works', about(answer, 'smtp.starttls'), answer['findings'])
        for name, hexed, finding in (('matches', digest, 'smtp.starttls'), ('does not', '00' * 32, 'dane.mismatch')):
            _, answer = check({**rows, tlsa: Tlsa(f'030101{hexed}')}, '--connect', '--port', port)
            checks.ok(f'connect: the certificate {name}', about(answer, finding) and answer['dane'][0]['data'] == hexed, answer)
            checks.ok('connect: TLSA without DNSSEC is told', about(answer, 'dane.insecure'), answer['findings'])
        _, answer = check({**rows, tlsa: Tlsa('030101aabb')})
        checks.ok('a TLSA record that is too short', about(answer, 'dane.malformed'), answer['findings'])
        _, answer = check({**rows, tlsa: Tlsa('000101' + '00' * 32)})
        checks.ok('a TLSA usage that mail does not know', about(answer, 'dane.unusable'), answer['findings'])
    with Server(text='hostname = "mx.test"\nspool = "{folder}/spool"\nlisten smtp { address = "127.0.0.1:0" }\n'
                     'domain "rcpt.test" { users = "file:{folder}/users"  deliver = "maildir:{folder}/mail" }\n'
                     'log { format = json  level = info }\n') as server:
        port = str(server.address('smtp')[1])
        code, answer = check(rows, '--connect', '--port', port)
        checks.ok('connect: no STARTTLS', code == 1 and about(answer, 'smtp.no_starttls'), answer['findings'])
    _, answer = check(rows, '--connect', '--port', port)
    checks.ok('connect: nobody there', about(answer, 'smtp.unreachable'), answer['findings'])


def key_digest(certificate):
    """SHA-256 of the public key, as `3 1 1` has it."""
    key = subprocess.run(['openssl', 'x509', '-in', certificate, '-pubkey', '-noout'], capture_output=True, check=True).stdout
    spki = subprocess.run(['openssl', 'pkey', '-pubin', '-outform', 'DER'], input=key, capture_output=True, check=True).stdout
    return hashlib.sha256(spki).hexdigest()


class Tlsa(str):
    """Record data in hexadecimal: the scripted server packs names and text only."""


def pack_tlsa():
    import lib_dns
    plain = lib_dns.pack_data
    lib_dns.pack_data = lambda kind, text: bytes.fromhex(text) if isinstance(text, Tlsa) else plain(kind, text)


def main():
    checks = Checks()
    pack_tlsa()
    done = subprocess.run([HOLDFAST, 'dns', 'check', D, '--ip', 'nobody'], capture_output=True, timeout=60)
    checks.ok('usage', done.returncode == 2, done)
    for part in (shape, spf, hosts, records, connect):
        part(checks)
    return checks.done()


if __name__ == '__main__':
    os.chdir(tempfile.gettempdir())
    raise SystemExit(main())
