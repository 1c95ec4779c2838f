#!/usr/bin/env python3
"""`dns check`: the shape of its JSON, exit codes, the tree of SPF with the limit, the caret, MX, reverse names, keys, DMARC,
TLSA, a resolver that fails, and with --connect a real server's STARTTLS against its TLSA record. Names come from a scripted
server on loopback."""
import hashlib
import http.server
import json
import os
import re
import shutil
import ssl
import struct
import subprocess
import tempfile
import threading
import time
import xml.etree.ElementTree

import lib_dns
from lib import HOLDFAST, Checks, Client, Server
from lib_dmarc import can_judge, faults
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
    checks.ok('the members of the contract', set(answer) == {'domain', 'findings', 'spf', 'mx', 'dmarc', 'dkim', 'dane', 'mta_sts', 'tls_rpt', 'dnssec'}, list(answer))
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


# ------------------------------------------------------------------ MTA-STS

POLICY = 'version: STSv1\r\nmode: enforce\r\nmx: mx.shop.example\r\nmax_age: 604800\r\n'


class PolicyHost:
    """An HTTPS server with a certificate for that name from an authority of its own."""

    def __init__(self, folder, name):
        self.answer = (200, 'text/plain', POLICY)
        self.authority = os.path.join(folder, 'ca.pem')
        run = lambda *words: subprocess.run(['openssl', *words], check=True, capture_output=True, cwd=folder)
        run('req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-keyout', 'ca.key', '-out', 'ca.pem',
            '-days', '2', '-subj', '/CN=Test CA')
        run('req', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-keyout', 'host.key', '-out', 'host.csr', '-subj', '/CN=x')
        with open(os.path.join(folder, 'ext'), 'w') as file:
            file.write(f'subjectAltName=DNS:{name}\n')
        run('x509', '-req', '-in', 'host.csr', '-CA', 'ca.pem', '-CAkey', 'ca.key', '-CAcreateserial', '-out', 'host.pem', '-days', '2', '-extfile', 'ext')
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(os.path.join(folder, 'host.pem'), os.path.join(folder, 'host.key'))
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                status, kind, text = outer.answer
                self.send_response(status if self.path == '/.well-known/mta-sts.txt' else 404)
                self.send_header('Content-Type', kind)
                self.send_header('Location', 'https://elsewhere.example/')
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *words):
                pass

        self.server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.port = str(self.server.server_address[1])

    def close(self):
        self.server.shutdown()
        self.server.server_close()


def policy(checks):
    if not shutil.which('openssl'):
        checks.skip('mta-sts: policies', 'openssl is not installed')
        return
    rows = {**SOUND, ('_mta-sts.shop.example', 'TXT'): ('v=STSv1; id=1',), ('mta-sts.shop.example', 'A'): '127.0.0.1',
            ('mta-sts.shop.example', None): 'EMPTY'}
    with tempfile.TemporaryDirectory() as folder:
        host = PolicyHost(folder, 'mta-sts.shop.example')
        trusting = ('--https-port', host.port, '--authorities', host.authority)
        code, answer = check(rows, *trusting)
        checks.ok('mta-sts: a policy that enforces and covers', code == 0 and about(answer, 'mta_sts.enforced') and answer['mta_sts']['policy'] ==
                  {'mode': 'enforce', 'max_age': 604800, 'mx': ['mx.shop.example']}, answer['mta_sts'])
        for name, answered, finding in (
                ('another host', (200, 'text/plain', POLICY.replace('mx.shop', 'mx2.shop')), 'mta_sts.mx_uncovered'),
                ('another host, testing', (200, 'text/plain', POLICY.replace('mx.shop', '*.sub.shop').replace('enforce', 'testing')), 'mta_sts.mx_uncovered_testing'),
                ('testing', (200, 'text/plain', POLICY.replace('enforce', 'testing')), 'mta_sts.testing'),
                ('none', (200, 'text/plain', POLICY.replace('enforce', 'none')), 'mta_sts.mode_none'),
                ('a short age', (200, 'text/plain', POLICY.replace('604800', '60')), 'mta_sts.short_age'),
                ('no policy', (200, 'text/plain', 'nonsense'), 'mta_sts.policy_syntax'),
                ('HTML', (200, 'text/html', POLICY), 'mta_sts.type'), ('404', (404, 'text/plain', ''), 'mta_sts.policy_not_fetched'),
                ('a redirect', (301, 'text/plain', POLICY), 'mta_sts.policy_not_fetched')):
            host.answer = answered
            _, answer = check(rows, *trusting)
            checks.ok(f'mta-sts: {name}', about(answer, finding), found(answer, 'error', 'warning', 'info'))
        code, answer = check(rows, '--https-port', host.port)
        checks.ok('mta-sts: an authority that nobody knows', code == 1 and about(answer, 'mta_sts.untrusted'), answer['findings'])
        host.close()
        code, answer = check(rows, *trusting)
        checks.ok('mta-sts: nobody there', code == 1 and about(answer, 'mta_sts.policy_not_fetched'), answer['findings'])


# ------------------------------------------------------------------ a domain of this server

def own(checks):
    """What is published against what the server signs with, and selectors learned from mail that passed through."""
    if not shutil.which('openssl'):
        checks.skip('own domain', 'openssl is not installed')
        return
    with tempfile.TemporaryDirectory() as folder:
        pem = os.path.join(folder, 'key.pem')
        subprocess.run(['openssl', 'genrsa', '-out', pem, '2048'], check=True, capture_output=True)
        public = subprocess.run(['openssl', 'rsa', '-in', pem, '-pubout'], check=True, capture_output=True).stdout.decode()
        right = 'v=DKIM1; p=' + ''.join(public.split('\n')[1:-2])
        record = ('own1._domainkey.shop.example', 'TXT')
        signed = subprocess.run([HOLDFAST, 'sign', '-', '--domain', D, '--selector', 'seen7', '--key', pem], check=True, capture_output=True,
                                input=b'From: a@shop.example\r\nSubject: x\r\n\r\nx\r\n').stdout
        names = ScriptedDns({**SOUND, ('seen7._domainkey.shop.example', 'TXT'): right})
        text = (f'hostname = "mx.shop.example"\nspool = "{{folder}}/spool"\nlisten smtp {{ address = "127.0.0.1:0" }}\n'
                f'domain "{D}" {{ users = "file:{{folder}}/users"  deliver = "maildir:{{folder}}/mail" }}\n'
                f'resolver {{ forward = {{"127.0.0.1@{names.port}"}} }}\nchecks {{ spf = record  dkim = record  dmarc = record }}\n'
                f'sign rsa {{ domain = "{D}"  selector = "own1"  key = "{pem}" }}\nlog {{ format = json  level = info }}\n')
        with Server(text=text) as server:
            # What a receiver meets besides: a signature that names no key, a bounce from a host that names itself by its address.
            nameless = b'DKIM-Signature: v=1; a=rsa-sha256; d=shop.example; h=from; bh=AAAA; b=AAAA\r\nFrom: a@shop.example\r\nSubject: y\r\n\r\ny\r\n'
            for helo, sender, message in (('c.example', f'a@{D}', signed), ('c.example', f'a@{D}', nameless), ('[192.0.2.1]', '', nameless)):
                with Client(server.address()) as client:
                    for line in (f'EHLO {helo}', f'MAIL FROM:<{sender}>', f'RCPT TO:<alice@{D}>', 'DATA'):
                        client.command(line)
                    client.send(message + b'.\r\n')
                    checks.ok('own: mail passes through', client.reply().code == 250)
            server.wait_events('message.authenticated', 3)
            server.stop()
            report(checks, server)
            names.close()
            options = ('-c', server.config)
            code, answer = check({**SOUND, record: (right,)}, *options)
            checks.ok('own: the key that is published is the one that signs', about(answer, 'own.key_fits') and answer['dkim'][0]['selector'] == 'own1', answer['findings'])
            checks.ok('own: a selector seen in mail, now gone', any('seen7' in one['name'] for one in about(answer, 'dkim.missing')), answer['findings'])
            code, answer = check({**SOUND, record: (f'v=DKIM1; p={rsa_key(2048)}',)}, *options)
            checks.ok('own: another key is published', code == 1 and about(answer, 'own.key_differs'), answer['findings'])
            code, answer = check(SOUND, *options)
            checks.ok('own: no key is published', code == 1 and any('own1' in one['name'] for one in about(answer, 'dkim.missing')), answer['findings'])
            _, answer = check({**SOUND, ('mx.shop.example', 'A'): 'EMPTY', (D, 'MX'): '10 other.example', ('other.example', 'A'): '192.0.2.99',
                               ('other.example', None): 'EMPTY'}, *options)
            checks.ok('own: the MX leads elsewhere, the EHLO name nowhere', about(answer, 'own.mx_elsewhere') and about(answer, 'own.helo_without_address'), answer['findings'])
            _, answer = check({('stranger.example', 'MX'): '0 .', ('stranger.example', None): 'EMPTY'}, *options, domain='stranger.example')
            checks.ok('own: nothing of it for a stranger', not any(one['id'].startswith('own.') for one in answer['findings']), answer['findings'])


def report(checks, server):
    """The aggregate report of what was evaluated."""
    code, text, errors = server.run('dmarc', 'report', D)
    tree = xml.etree.ElementTree.fromstring(text)
    names = {'d': 'urn:ietf:params:xml:ns:dmarc-2.0'}
    value = lambda path: [one.text for one in tree.findall('d:' + path.replace('/', '/d:'), names)]
    checks.ok('dmarc report: a row of each kind that came', code == 0 and value('record/row/count') == ['1'] * 3 and value('record/row/source_ip') == ['127.0.0.1'] * 3, text + errors)
    checks.ok('dmarc report: the results', value('record/auth_results/dkim/selector') == ['seen7'] and value('record/auth_results/dkim/result') == ['pass'] and
              sorted(value('record/row/policy_evaluated/dkim')) == ['fail', 'fail', 'pass'] and
              value('record/row/policy_evaluated/spf') == ['fail'] * 3 and 'pass' in value('record/row/policy_evaluated/disposition'), text)
    checks.ok('dmarc report: the policy', value('policy_published/p') == ['reject'] and value('policy_published/domain') == [D], text)
    if not can_judge():
        checks.skip('dmarc report: the form of RFC 9990', 'xmllint is not installed')
    else:
        checks.ok('dmarc report: the form of RFC 9990', not faults(text), faults(text))
        for wrong in (text.replace('<count>', '<tally>').replace('</count>', '</tally>'), text.replace('<p>reject', '<p>refuse'),
                      re.sub('(?s)<policy_published>.*</policy_published>', '', text), re.sub('(?s)<record>.*</record>', '', text),
                      re.sub('<selector>.*</selector>', '', text)):
            checks.ok('dmarc report: that form is looked at', wrong != text and faults(wrong), wrong)
    code, text, errors = server.run('dmarc', 'report', 'nobody.example')
    checks.ok('dmarc report: no mail, no report', code == 0 and text == '' and 'no mail under the policy of nobody.example' in errors, text + errors)


# ------------------------------------------------------------------ open relay

def relay(checks):
    for name, trusted, finding in (('trusts this network', '127.0.0.0/8', 'smtp.relays_from_here'), ('trusts nobody', '192.0.2.0/24', 'smtp.no_open_relay')):
        with Server(extra=f'relay {{ from = {{"{trusted}"}} }}\nresolver {{ forward = {{"127.0.0.1@1"}}  timeout = 1s }}') as server:
            port = str(server.address('smtp')[1])
            _, answer = check({**SOUND, ('mx.shop.example', 'A'): '127.0.0.1'}, '--connect', '--port', port)
            checks.ok(f'relay: a host that {name}', about(answer, finding), found(answer, 'error', 'warning', 'info'))
            checks.ok('relay: no message is sent', not server.events('message.accepted'))


# ------------------------------------------------------------------ what TLSA records match

def key_digest(certificate):
    """SHA-256 of the public key, as `3 1 1` has it."""
    key = subprocess.run(['openssl', 'x509', '-in', certificate, '-pubkey', '-noout'], capture_output=True, check=True).stdout
    spki = subprocess.run(['openssl', 'pkey', '-pubin', '-outform', 'DER'], input=key, capture_output=True, check=True).stdout
    return hashlib.sha256(spki).hexdigest()


class Tlsa(str):
    """Record data in hexadecimal: the scripted server packs names and text only."""


def pack_tlsa():
    plain = lib_dns.pack_data
    lib_dns.pack_data = lambda kind, text: bytes.fromhex(text) if isinstance(text, Tlsa) else plain(kind, text)


def main():
    checks = Checks()
    pack_tlsa()
    done = subprocess.run([HOLDFAST, 'dns', 'check', D, '--ip', 'nobody'], capture_output=True, timeout=60)
    checks.ok('usage', done.returncode == 2, done)
    for part in (shape, spf, hosts, records, connect, policy, own, relay):
        part(checks)
    return checks.done()


if __name__ == '__main__':
    os.chdir(tempfile.gettempdir())
    raise SystemExit(main())
