"""Zones that knot signs, certificates of a small authority, and a web server for policies of MTA-STS: what tests of TLS on the way
out need of the world.

    authority = Authority(folder)
    certificate, key = authority.issue('mx', ['mx.a.example'])             # PEM files; certificate: the leaf, then the authority
    with SignedZones(folder, '127.0.0.54', {'example': [('mx.a', 'A', '127.0.0.11')]}, signed={'example'}) as zones:
        zones.anchor                                                       # file for resolver { trust_anchor = ... }
    with PolicyHost('127.0.0.40', 443, certificate, key, {'mta-sts.a.example': 'version: STSv1\\n...'}): ...

stale: zones whose signatures are over (kzonesign signed as of then); forged: zones of which a record was changed behind the signer's back."""
import datetime
import hashlib
import os
import re
import shutil
import ssl
import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

STALE_DAYS = 60     # the signatures of knot's default live for 14
PEM, DER = serialization.Encoding.PEM, serialization.Encoding.DER


class Authority:
    def __init__(self, folder):
        self.folder = folder
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, 'authority of a test')])
        self.certificate = self.sign(self.name, self.key.public_key(), 30, [(x509.BasicConstraints(True, None), True)])
        self.file = os.path.join(folder, 'authority.pem')
        with open(self.file, 'wb') as file:
            file.write(self.certificate.public_bytes(PEM))

    def sign(self, subject, public_key, days, extensions):
        now = datetime.datetime.utcnow()
        builder = (x509.CertificateBuilder().subject_name(subject).issuer_name(self.name).public_key(public_key)
                   .serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(days=60))
                   .not_valid_after(now + datetime.timedelta(days=days)))
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical)
        return builder.sign(self.key, hashes.SHA256())

    def issue(self, word, names, days=30):
        """Two PEM files; the leaf's names are alternative names. days may be negative."""
        key = ec.generate_private_key(ec.SECP256R1())
        leaf = self.sign(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, word)]), key.public_key(), days,
                         [(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), False)])
        certificate, secret = os.path.join(self.folder, f'{word}.pem'), os.path.join(self.folder, f'{word}.key')
        with open(certificate, 'wb') as file:
            file.write(leaf.public_bytes(PEM) + self.certificate.public_bytes(PEM))
        with open(secret, 'wb') as file:
            file.write(key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
        os.chmod(secret, 0o644)     # Exim reads it as its own user
        return certificate, secret

    def tlsa(self):
        """Usage 2: this authority's certificate."""
        return '2 0 1 ' + hashlib.sha256(self.certificate.public_bytes(DER)).hexdigest()


def tlsa_of(certificate):
    """Usage 3: the key of the first certificate in a file."""
    with open(certificate, 'rb') as file:
        key = x509.load_pem_x509_certificate(file.read()).public_key()
    return '3 1 1 ' + hashlib.sha256(key.public_bytes(DER, serialization.PublicFormat.SubjectPublicKeyInfo)).hexdigest()


class SignedZones:
    """Signs once, then serves the signed files as they are. records: {zone: [(owner, type, data)]}; a zone that is not in
    `signed` is served plain. stale and forged are among the signed."""
    CONFIG = '''server:
  rundir: {folder}/run
  listen: {address}@53
database:
  storage: {folder}/db
policy:
  - id: once
    algorithm: ecdsap256sha256
    single-type-signing: on
zone:
'''

    def __init__(self, folder, address, records, signed, stale=(), forged=()):
        self.folder, self.address = os.path.join(folder, 'knot'), address
        self.signed, self.stale, self.forged = set(signed), set(stale), set(forged)
        self.zones, self.process = list(records), None
        for sub in ('run', 'db'):
            os.makedirs(os.path.join(self.folder, sub))
        for zone, rows in records.items():
            text = f'$ORIGIN {zone}.\n$TTL 60\n@ SOA ns.{zone}. hostmaster.{zone}. 1 3600 600 86400 60\n@ NS ns.{zone}.\nns A {address}\n'
            with open(self.file(zone), 'w') as file:
                file.write(text + ''.join(f'{owner} {kind} {data}\n' for owner, kind, data in rows))
        self.sign()

    def file(self, zone):
        return os.path.join(self.folder, f'{zone}.zone')

    def configure(self, signing):
        with open(os.path.join(self.folder, 'knot.conf'), 'w') as file:
            file.write(self.CONFIG.format(folder=self.folder, address=self.address))
            for zone in self.zones:
                file.write(f'  - domain: {zone}.\n    file: {self.file(zone)}\n')
                if signing and zone in self.signed:
                    file.write('    dnssec-signing: on\n    dnssec-policy: once\n')

    def run(self):
        with open(os.path.join(self.folder, 'log'), 'ab') as log:
            self.process = subprocess.Popen(['knotd', '-c', os.path.join(self.folder, 'knot.conf')], stdin=subprocess.DEVNULL,
                                            stdout=log, stderr=log)

    def sign(self):
        self.configure(True)
        for zone in self.signed:
            when = int(time.time()) - (STALE_DAYS * 86400 if zone in self.stale else 3600)
            done = subprocess.run(['kzonesign', '-c', os.path.join(self.folder, 'knot.conf'), '-o', self.folder, '-t', str(when), f'{zone}.'],
                                  capture_output=True, text=True)
            assert done.returncode == 0, done.stdout + done.stderr
        anchors = ''
        for zone in self.signed:
            done = subprocess.run(['keymgr', '-c', os.path.join(self.folder, 'knot.conf'), f'{zone}.', 'dnskey'], capture_output=True, text=True)
            anchors += ''.join(line + '\n' for line in done.stdout.splitlines() if ' DNSKEY ' in line)
        self.anchor = os.path.join(self.folder, 'anchor')
        with open(self.anchor, 'w') as file:
            file.write(anchors)
        assert anchors.count('DNSKEY') >= len(self.signed), anchors
        for zone in self.forged:
            with open(self.file(zone)) as file:
                text = file.read()
            changed = re.sub(r'(TLSA\s+\d \d \d )(.)', lambda found: found.group(1) + ('0' if found.group(2) != '0' else '1'), text)
            assert changed != text
            with open(self.file(zone), 'w') as file:
                file.write(changed)

    def stop(self):
        if self.process:
            self.process.terminate()
            self.process.wait(30)
            self.process = None

    def __enter__(self):
        self.configure(False)
        self.run()
        return self

    def __exit__(self, *fault):
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)


class PolicyHost:
    """policies: {host: text, or a number (that status)}."""

    def __init__(self, host, port, certificate, key, policies):
        owner = self
        self.policies, self.asked = policies, []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                name = self.headers.get('Host', '').split(':')[0]
                owner.asked.append((name, self.path))
                found = owner.policies.get(name, 404)
                self.send_response(found if isinstance(found, int) else 200)
                self.send_header('Content-Type', 'text/plain')
                self.end_headers()
                if not isinstance(found, int):
                    self.wfile.write(found.replace('\n', '\r\n').encode())

            def log_message(self, *words):
                pass

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        self.server = ThreadingHTTPServer((host, port), Handler)
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True, do_handshake_on_connect=False)

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *fault):
        self.server.shutdown()
        self.server.server_close()
