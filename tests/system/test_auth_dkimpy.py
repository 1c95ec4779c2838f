#!/usr/bin/env python3
"""DKIM and ARC against dkimpy, another implementation: what one signs the other verifies, and of changed messages both say the
same. Keys are made here with openssl; a name server on loopback serves them. SKIP without python3-dkim."""
import json
import os
import subprocess
import sys
import tempfile

try:
    import dkim
except ImportError:
    if sys.executable != '/usr/bin/python3' and os.path.exists('/usr/lib/python3/dist-packages/dkim'):
        os.execv('/usr/bin/python3', ['/usr/bin/python3', *sys.argv])
    print('ok dkimpy # SKIP python3-dkim is not installed\n0 passed, 0 failed, 1 skipped')
    raise SystemExit(0)

import base64

import lib_dns
from lib import HOLDFAST, Checks
from lib_dns import ScriptedDns

DOMAIN = 'football.example'


def pack_text(kind, text, plain=lib_dns.pack_data):
    """Key records are longer than one string."""
    if kind != 'TXT':
        return plain(kind, text)
    parts = [text[i:i + 255].encode() for i in range(0, len(text), 255)]
    return b''.join(bytes([len(part)]) + part for part in parts)


lib_dns.pack_data = pack_text


def openssl(*arguments):
    return subprocess.run(['openssl', *arguments], check=True, capture_output=True).stdout


class Key:
    """A key pair: `pem` for holdfast, `private` for dkimpy, `record` for DNS."""

    def __init__(self, folder, selector, *how):
        self.selector = selector
        self.path = os.path.join(folder, selector + '.pem')
        openssl('genpkey', '-algorithm', *how, '-out', self.path)
        public = openssl('pkey', '-in', self.path, '-pubout', '-outform', 'DER')
        if how[0] == 'ed25519':
            # the last 32 octets of either DER form are the raw key (RFC 8410)
            raw = openssl('pkey', '-in', self.path, '-outform', 'DER')[-32:]
            self.algorithm, self.private = b'ed25519-sha256', base64.b64encode(raw)
            self.record = 'v=DKIM1; k=ed25519; p=' + base64.b64encode(public[-32:]).decode()
        else:
            self.algorithm = b'rsa-sha256'
            self.private = openssl('rsa', '-in', self.path, '-traditional')
            self.record = 'v=DKIM1; k=rsa; p=' + base64.b64encode(public).decode()


HEAD = (b'From: Joe =?utf-8?q?Six=C3=A4?= <joe@football.example>\r\nTo: Suzie Q <suzie@shopping.example>,\r\n'
        b'\tothers <o@shopping.example>\r\nSubject:   Is  dinner\r\n   ready? \r\nDate: Fri, 11 Jul 2003 21:00:37 -0700\r\n'
        b'X-Empty:\r\nMessage-ID: <1@football.example>\r\nMIME-Version: 1.0\r\n')
MESSAGES = {
    'plain': HEAD + b'\r\nHi.\r\n\r\nWe lost the game.\r\n',
    'blanks': HEAD + b'\r\n  two  spaces \t tab \r\n \t \r\n\r\nend  \r\n\r\n \r\n\r\n',
    'no body': HEAD + b'\r\n',
    'only empty lines': HEAD + b'\r\n\r\n\r\n\r\n',
    'no last line end': HEAD + b'\r\nno line end',
    'eight bit': HEAD + b'\r\n' + 'grüße\r\n'.encode() + bytes(range(128, 256)) + b'\r\n',
    'long': HEAD + b'\r\n' + b'word ' * 190 + b'\r\n' + b'line\r\n' * 20000,
    'dots': HEAD + b'\r\n.\r\n..\r\n. \r\n',
}


class Bench:
    def __init__(self, folder):
        self.folder = folder
        self.keys = [Key(folder, 'rsa1', 'RSA', '-pkeyopt', 'rsa_keygen_bits:1024'),
                     Key(folder, 'rsa2', 'RSA', '-pkeyopt', 'rsa_keygen_bits:2048'), Key(folder, 'ed', 'ed25519')]
        self.names = {f'{key.selector}._domainkey.{DOMAIN}': key.record for key in self.keys}
        self.server = ScriptedDns({(name, 'TXT'): record for name, record in self.names.items()})

    def record(self, name, timeout=5):
        """What dkimpy asks instead of DNS."""
        return self.names.get(name.decode().rstrip('.') if isinstance(name, bytes) else name.rstrip('.'), '').encode()

    def file(self, message):
        path = os.path.join(self.folder, 'message.eml')
        with open(path, 'wb') as out:
            out.write(message)
        return path

    def holdfast(self, *arguments):
        done = subprocess.run([HOLDFAST, *arguments, '--resolver', f'127.0.0.1@{self.server.port}'], capture_output=True, timeout=60)
        if done.returncode != 0:
            raise AssertionError(f'{arguments[0]}: exit {done.returncode}: {done.stderr.decode()[:200]}')
        return done.stdout

    def judge(self, message):
        return json.loads(self.holdfast('auth', self.file(message), '--ip', '192.0.2.1', '--helo', 'h.example', '--from',
                                        'joe@football.example', '--json'))

    def sign(self, message, key, *more):
        return self.holdfast('sign', self.file(message), '--domain', DOMAIN, '--selector', key.selector, '--key', key.path, *more)


def dkimpy_says(bench, message):
    try:
        return dkim.verify(message, dnsfunc=bench.record)
    except (dkim.DKIMException, ValueError):
        return False


def ours_verified_by_dkimpy(bench, checks):
    for name, message in MESSAGES.items():
        for key in bench.keys:
            signed = bench.sign(message, key)
            checks.ok(f'ours, {key.selector}, {name}', signed.endswith(message) and dkimpy_says(bench, signed))


def theirs_verified_by_us(bench, checks):
    forms = [b'simple', b'relaxed']
    for name, message in MESSAGES.items():
        for key in bench.keys:
            for head in forms:
                for body in forms:
                    field = dkim.sign(message, key.selector.encode(), DOMAIN.encode(), key.private, canonicalize=(head, body),
                                      signature_algorithm=key.algorithm, include_headers=[b'from', b'to', b'subject', b'x-empty'],
                                      length=head == body)
                    facts = bench.judge(field + message)['dkim']
                    checks.ok(f'theirs, {key.selector}, {(head + b"/" + body).decode()}, {name}',
                              [fact['result'] for fact in facts] == ['pass'], facts)


def changes(signed):
    """Messages that differ from the signed one in one place."""
    split = signed.index(b'\r\n\r\n') + 4
    yield 'subject', signed.replace(b'dinner', b'Dinner', 1)
    yield 'case of a name', signed.replace(b'Subject:', b'SUBJECT:', 1)
    yield 'unfolded', signed.replace(b'dinner\r\n   ready', b'dinner ready', 1)
    yield 'space in a value', signed.replace(b'Suzie Q', b'Suzie  Q', 1)
    yield 'field on top', b'Subject: other\r\n' + signed
    yield 'unsigned field on top', b'X-Other: other\r\n' + signed
    yield 'body byte', signed[:split] + b'!' + signed[split:]
    yield 'line at the end', signed + b'more\r\n'
    yield 'empty lines at the end', signed + b'\r\n\r\n'
    yield 'blanks at the end', signed[:-2] + b'  \r\n'
    yield 'field removed', signed.replace(b'X-Empty:\r\n', b'', 1)
    yield 'signature byte', signed.replace(b'bh=', b'bh=A', 1)


def both_say_the_same(bench, checks):
    for form in ((b'simple', b'simple'), (b'relaxed', b'relaxed')):
        for key in bench.keys[1:]:
            field = dkim.sign(MESSAGES['plain'], key.selector.encode(), DOMAIN.encode(), key.private, canonicalize=form,
                              signature_algorithm=key.algorithm,
                              include_headers=[b'from', b'to', b'subject', b'subject', b'x-empty'])
            for name, changed in changes(field + MESSAGES['plain']):
                theirs = dkimpy_says(bench, changed)
                ours = bench.judge(changed)['dkim'][0]
                checks.ok(f'{name}, {key.selector}, {form[0].decode()}: {"pass" if theirs else "no pass"}',
                          (ours['result'] == 'pass') == theirs, (ours, theirs))


def chains(bench, checks):
    key = bench.keys[1]
    for name, message in MESSAGES.items():
        ours = bench.sign(message, key, '--arc')
        twice = bench.sign(ours, bench.keys[0], '--arc')
        for sets, sealed in ((1, ours), (2, twice)):
            verdict, _, reason = dkim.arc_verify(sealed, dnsfunc=bench.record)
            checks.ok(f'our chain of {sets}, {name}', verdict == b'pass' and sealed.endswith(message), reason)
        known = b'Authentication-Results: mx.example; spf=pass smtp.mfrom=joe@football.example; arc=none\r\n' + message
        fields = dkim.arc_sign(known, key.selector.encode(), DOMAIN.encode(), key.private, b'mx.example',
                               include_headers=[b'from', b'to', b'subject'])
        theirs = b''.join(fields) + known
        arc = bench.judge(theirs)['arc']
        checks.ok(f'their chain, {name}', arc['result'] == 'pass', arc)
        arc = bench.judge(theirs + b'more\r\n')['arc']
        checks.ok(f'their chain, changed, {name}', arc['result'] == 'fail', arc)


def main():
    checks = Checks()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(folder)
        ours_verified_by_dkimpy(bench, checks)
        theirs_verified_by_us(bench, checks)
        both_say_the_same(bench, checks)
        chains(bench, checks)
        bench.server.close()
    return checks.done()


if __name__ == '__main__':
    sys.exit(main())
