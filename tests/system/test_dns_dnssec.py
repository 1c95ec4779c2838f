#!/usr/bin/env python3
"""The chain of trust in `dns check`: zones that knot really signs, from a root of our own down, each broken in one way, served by
knot and looked at through bind9, which validates. The finding names the link that is broken, and the resolver agrees that one is."""
import base64
import hashlib
import json
import os
import re
import shutil
import struct
import subprocess
import tempfile
import time

from lib import HOLDFAST, Checks, wait_until
from lib_dns import make_query, pack_name
from lib_nameservers import free_port, has_answer

DAY = 86400
# zone: (findings that have to be there, and no others that are errors or warnings; what the resolver says)
CASES = {
    'right': ([], 'dnssec.secure'),
    'expired': (['dnssec.signature_expired'], 'dnssec.bogus'),
    'early': (['dnssec.signature_not_yet_valid'], 'dnssec.bogus'),
    'soon': (['dnssec.signature_ends_soon'], 'dnssec.secure'),
    'wrongkey': (['dnssec.ds_names_no_key'], 'dnssec.bogus'),
    'forged': (['dnssec.signature_wrong'], 'dnssec.secure'),        # the MX alone; the SOA is right
    'stripped': (['dnssec.unsigned'], 'dnssec.secure'),             # of the MX alone
    'bare': (['dnssec.no_keys'], 'dnssec.bogus'),                   # a DS, and the zone is not signed
    'island': (['dnssec.no_ds'], 'dnssec.insecure'),
    'plain': ([], 'dnssec.insecure'),
    'unproven': (['dnssec.no_proof'], 'dnssec.secure'),             # its NSEC at _dmarc is gone
    'future': (['dnssec.ds_unsupported'], 'dnssec.insecure'),
    'adrift': (['dnssec.keys_not_signed_by_ds_key'], 'dnssec.bogus'),
    'keyless': (['dnssec.signature_by_unknown_key', 'dnssec.signature_wrong'], 'dnssec.bogus'),    # by hand, so the set of keys does not fit either
}
UNSIGNED = ('plain', 'bare')
SHIFT = {'expired': -60 * DAY, 'early': 30 * DAY, 'soon': -12 * DAY}       # knot's signatures live for 14 days


class Tree:
    """The root, `example`, and one zone below it for each case."""
    def __init__(self, folder):
        self.folder, self.port, self.resolver = folder, free_port(), free_port()
        self.zones = ['.', 'example'] + [f'{word}.example' for word in CASES]
        self.processes, self.logs = [], []
        for sub in ('run', 'db', 'bind'):
            os.makedirs(os.path.join(folder, sub))
        for word in CASES:
            self.write(f'{word}.example')
            if word not in UNSIGNED:
                self.sign(f'{word}.example', SHIFT.get(word, -3600))
        self.write('example', ''.join(self.delegation(word) for word in CASES))
        self.sign('example', -3600)
        self.write('.', 'example. NS ns.example.\nns.example. A 127.0.0.1\n' + self.ds('example'))
        self.sign('.', -3600)
        self.breakages()

    def file(self, zone):
        return os.path.join(self.folder, ('root' if zone == '.' else zone) + '.zone')

    def write(self, zone, more=''):
        origin = '.' if zone == '.' else zone + '.'
        with open(self.file(zone), 'w') as file:
            file.write(f'$ORIGIN {origin}\n$TTL 60\n@ SOA ns.example. h.example. 1 3600 600 86400 60\n@ NS ns.example.\n' + more)
            if zone not in ('.', 'example'):
                nsec = '' if zone == 'unproven.example' else '_dmarc TXT "v=DMARC1; p=reject; rua=mailto:d@' + zone + '"\n'
                file.write('@ MX 10 mx\n@ TXT "v=spf1 mx -all"\nmx A 192.0.2.1\n' + nsec)

    def configure(self, signing=None, algorithm='ecdsap256sha256', single='on'):
        path = os.path.join(self.folder, 'knot.conf')
        with open(path, 'w') as file:
            file.write(f'server:\n  listen: 127.0.0.1@{self.port}\n  rundir: {self.folder}/run\n  udp-workers: 1\n  tcp-workers: 1\n'
                       f'database:\n  storage: {self.folder}/db\n  journal-db-max-size: 8M\n  timer-db-max-size: 2M\nlog:\n  - target: stderr\n    any: info\n'
                       f'policy:\n  - id: once\n    algorithm: {algorithm}\n    single-type-signing: {single}\n'
                       'template:\n  - id: default\n    journal-content: none\n    zonefile-load: whole\n    zonefile-sync: -1\nzone:\n')
            for zone in self.zones:
                file.write(f'  - domain: {"" if zone == "." else zone}.\n    file: {self.file(zone)}\n')
                if zone == signing:
                    file.write('    dnssec-signing: on\n    dnssec-policy: once\n')
        return path

    def tool(self, *words):
        done = subprocess.run(words, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def name(self, zone):
        return '.' if zone == '.' else zone + '.'

    def sign(self, zone, shift):
        split = zone in ('adrift.example', 'keyless.example')     # with a KSK apart
        path = self.configure(zone, single='off' if split else 'on')
        self.tool('kzonesign', '-c', path, '-o', self.folder, '-t', str(int(time.time()) + shift), self.name(zone))

    def ds(self, zone):
        """SHA-256 alone."""
        rows = self.tool('keymgr', '-c', os.path.join(self.folder, 'knot.conf'), self.name(zone), 'ds').splitlines()
        return ''.join(row + '\n' for row in rows if re.search(r' DS \d+ \d+ 2 ', row))

    def ds_of_other(self, zone):
        """Of the ZSK, which signs the records and not the keys: a mistake that registrars' forms invite."""
        with open(self.file(zone)) as file:
            flags, protocol, algorithm, data = re.search(r'\sDNSKEY\s+(256) (3) (13) (\S+)', file.read()).groups()
        key = struct.pack('>HBB', int(flags), int(protocol), int(algorithm)) + base64.b64decode(data)
        total = sum(byte << 8 if at % 2 == 0 else byte for at, byte in enumerate(key))
        digest = hashlib.sha256(pack_name(zone) + key).hexdigest()
        return f'{zone}. DS {(total + (total >> 16)) & 0xffff} {algorithm} 2 {digest}\n'

    def delegation(self, word):
        zone = f'{word}.example'
        ns = f'{zone}. NS ns.example.\n'
        if word in ('plain', 'island'):
            return ns
        if word == 'bare':
            return ns + f'{zone}. DS 4711 13 2 {"ab" * 32}\n'
        self.configure(zone)
        ds = self.ds(zone) if word != 'adrift' else self.ds_of_other(zone)
        assert ds, word
        if word == 'wrongkey':
            ds = re.sub(r'[0-9a-f]{8}\n', '00000000\n', ds)
        if word == 'future':
            ds = re.sub(r' DS (\d+) 13 2 ', r' DS \1 200 2 ', ds)
        return ns + ds

    def edit(self, word, change):
        with open(self.file(f'{word}.example')) as file:
            text = file.read()
        changed = change(text)
        assert changed != text, (word, text)
        with open(self.file(f'{word}.example'), 'w') as file:
            file.write(changed)

    def breakages(self):
        drop = lambda pattern: lambda text: ''.join(line for line in text.splitlines(True) if not re.search(pattern, line))
        self.edit('forged', lambda text: re.sub(r'(\sMX\s+)10 ', r'\g<1>11 ', text))
        self.edit('stripped', drop(r'\sRRSIG\s+MX\s'))
        self.edit('unproven', drop(r'\s(RRSIG\s+)?NSEC\s'))
        self.edit('keyless', drop(r'\sDNSKEY\s+256\s'))

    def start(self, name, *words):
        log = open(os.path.join(self.folder, name + '.log'), 'wb')
        self.logs.append(log)
        self.processes.append(subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder))

    def serve(self):
        path = self.configure()
        self.start('knot', 'knotd', '-c', path)
        key = next(line.split('DNSKEY ')[1] for line in self.tool('keymgr', '-c', self.configure('.'), '.', 'dnskey').splitlines() if 'DNSKEY' in line)
        flags, protocol, algorithm, data = key.split(None, 3)
        bind = os.path.join(self.folder, 'bind', 'named.conf')
        with open(bind, 'w') as file:
            file.write(f'options {{ directory "{self.folder}/bind"; listen-on port {self.resolver} {{ 127.0.0.1; }}; listen-on-v6 {{ none; }};\n'
                       f' pid-file "pid"; session-keyfile "key"; forward only; forwarders {{ 127.0.0.1 port {self.port}; }}; dnssec-validation yes;\n'
                       ' recursion yes; notify no; empty-zones-enable no; disable-empty-zone "."; }; controls { };\n'
                       f'trust-anchors {{ "." static-key {flags} {protocol} {algorithm} "{data.replace(" ", "")}"; }};\n')
        self.configure()
        self.start('bind', 'named', '-g', '-n', '1', '-c', bind)
        wait_until('knot to answer', lambda: has_answer(('127.0.0.1', self.port), make_query('example', 'SOA')))
        wait_until('bind to answer', lambda: has_answer(('127.0.0.1', self.resolver), make_query('right.example', 'SOA')))

    def __enter__(self):
        self.serve()
        return self

    def __exit__(self, *_):
        for process in self.processes:
            process.kill()
            process.wait()
        for log in self.logs:
            log.close()


def ask(tree, domain, *words, port=None, text=False):
    done = subprocess.run([HOLDFAST, 'dns', 'check', domain, '--resolver', f'127.0.0.1@{port or tree.resolver}', *words, *([] if text else ['--json'])],
                          capture_output=True, timeout=120)
    assert done.returncode in (0, 1), (done.returncode, done.stderr)
    return done.returncode, done.stdout.decode() if text else json.loads(done.stdout)


def of_dnssec(answer, *severities):
    return sorted(one['id'] for one in answer['findings'] if one['id'].startswith('dnssec.') and one['severity'] in severities)


def links(checks, tree):
    for word, (expected, resolver) in CASES.items():
        _, answer = ask(tree, f'{word}.example')
        said = of_dnssec(answer, 'error', 'warning')
        checks.ok(f'dnssec: {word}', said == sorted(expected + (['dnssec.bogus'] if resolver == 'dnssec.bogus' else [])), (said, answer['dnssec']))
        checks.ok(f'dnssec: {word}: the resolver says {resolver}', any(one['id'] == resolver for one in answer['findings']), answer['findings'])
        checks.ok(f'dnssec: {word}: a fix', all(one['fix'] and '{' not in one['text'] + one['fix'] for one in answer['findings'] if one['id'] in expected), answer['findings'])
        if word == 'right':
            zones = [(zone['zone'], zone['linked'], {one['state'] for one in zone['sets']}) for zone in answer['dnssec']['chain']]
            checks.ok('dnssec: the chain from the root', zones == [('.', True, {'right'}), ('example', True, {'right'}), ('right.example', True, {'right'})], zones)


def words(checks, tree):
    for word, told in (('expired', r'DNSKEY of expired\.example, by key \d+ of expired\.example \(ECDSAP256SHA256\), valid from .* to .*; it is now 20'),
                       ('forged', r'MX of forged\.example, by key \d+'), ('stripped', r'demands one: MX of stripped\.example\.'),
                       ('wrongkey', r'wrongkey\.example \(DS names key \d+; the zone has \d+\)'),
                       ('unproven', r'bears out the proof that there is no TXT of _dmarc\.unproven\.example'),
                       ('keyless', r'SOA of keyless\.example, by key \d+ of keyless\.example')):
        code, shown = ask(tree, f'{word}.example', text=True)
        checks.ok(f'dnssec: the words for {word}', code == 1 and re.search(told, shown.replace('\n', ' ')), shown)


def clock(checks, tree):
    """This machine's clock is wrong: the resolver is content, the walk is not, and says what time it takes it to be."""
    if not shutil.which('faketime'):
        checks.skip('dnssec: a wrong clock', 'faketime is not installed')
        return
    done = subprocess.run(['faketime', '-f', '+90d', HOLDFAST, 'dns', 'check', 'right.example', '--resolver', f'127.0.0.1@{tree.resolver}', '--json'],
                          capture_output=True, timeout=120)
    answer = json.loads(done.stdout)
    checks.ok('dnssec: a wrong clock here', 'dnssec.signature_expired' in of_dnssec(answer, 'error') and 'dnssec.secure' in of_dnssec(answer, 'info'), answer['findings'])


def main():
    checks = Checks()
    for program in ('knotd', 'kzonesign', 'keymgr', 'named'):
        if not shutil.which(program):
            checks.skip('the chain of DNSSEC', f'{program} is not installed')
            return checks.done()
    with tempfile.TemporaryDirectory(prefix='holdfast-dnssec-') as folder:
        os.chmod(folder, 0o777)
        with Tree(folder) as tree:
            for part in (links, words, clock):
                part(checks, tree)
    return checks.done()


if __name__ == '__main__':
    raise SystemExit(main())
