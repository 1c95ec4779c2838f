"""Real authoritative servers (nsd, knot, bind9) on loopback, one process a zone, and what stands between them and who asks.

    with Knot(serial=7, extra='late TXT "x"\n') as one, Nsd(serial=6) as other: one.at, other.label, one.port"""
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading

from lib import wait_until
from lib_dns import make_query

ZONE = 'spread.example'
LONG = ' '.join(f'"{"x" * 250}"' for _ in range(8))


def zone_text(serial, extra=''):
    return (f'$ORIGIN {ZONE}.\n$TTL 600\n@ SOA ns1 hostmaster {serial} 3600 900 604800 300\n@ NS ns1\n@ NS ns2\n'
            'ns1 A 127.0.0.1\nns2 A 127.0.0.1\n@ MX 10 mx\nmx A 192.0.2.1\n@ TXT "v=spf1 mx -all"\n' + extra)


def free_port():
    """Free for both transports."""
    for _ in range(50):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp, socket.socket(socket.AF_INET, socket.SOCK_STREAM) as tcp:
            udp.bind(('127.0.0.1', 0))
            try:
                tcp.bind(udp.getsockname())
            except OSError:
                continue
            return udp.getsockname()[1]
    raise AssertionError('no free port')


def has_answer(server, query):
    """Is there one record in the answer?"""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(0.2)
        try:
            client.sendto(query, server)
            return client.recv(4096)[6:8] == b'\0\1'
        except OSError:
            return False


class Authority:
    """One server process with one zone; ended by its own process group."""

    def __init__(self, serial, extra='', zone=ZONE, host='127.0.0.1', port=None, text=None):
        self.host = host
        self.port, self.folder = port or free_port(), tempfile.mkdtemp(prefix='holdfast-dns-')
        os.chmod(self.folder, 0o777)
        with open(os.path.join(self.folder, 'zone'), 'w') as file:
            file.write(text or zone_text(serial, extra).replace(ZONE, zone))
        self.zone = zone
        with open(self.path('conf'), 'w') as file:
            file.write(self.conf())
        self.log = open(self.path('out'), 'wb')
        self.process = subprocess.Popen(self.command(), stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log,
                                        cwd=self.folder, start_new_session=True)
        try:
            wait_until(f'{self.program} to answer', self.answers)
        except AssertionError:
            self.close()
            raise

    def path(self, name):
        return os.path.join(self.folder, name)

    def answers(self):
        return has_answer((self.host, self.port), make_query(self.zone, 'SOA'))

    @property
    def at(self):
        return f'{self.host}@{self.port}'

    @property
    def label(self):
        return f'{self.host}:{self.port}'

    def close(self):
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self.log.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class Nsd(Authority):
    program = 'nsd'

    def conf(self):
        return (f'server:\n ip-address: {self.host}@{self.port}\n username: ""\n zonesdir: "{self.folder}"\n database: ""\n'
                f' pidfile: "{self.path("pid")}"\n xfrdfile: "{self.path("xfrd")}"\n zonelistfile: "{self.path("list")}"\n'
                f' xfrdir: "{self.folder}"\n server-count: 1\nremote-control:\n control-enable: no\n'
                f'zone:\n name: "{self.zone}"\n zonefile: "zone"\n')

    def command(self):
        return ['nsd', '-d', '-c', self.path('conf')]


class Knot(Authority):
    program = 'knotd'

    def conf(self):
        return (f'server:\n  listen: {self.host}@{self.port}\n  rundir: {self.folder}\n  udp-workers: 1\n  tcp-workers: 1\n'
                f'database:\n  storage: {self.folder}/db\nlog:\n  - target: stderr\n    any: warning\n'
                f'template:\n  - id: default\n    storage: {self.folder}\n    file: zone\n    journal-content: none\n'
                f'    zonefile-load: whole\n    zonefile-sync: -1\nzone:\n  - domain: {self.zone}\n')

    def command(self):
        return ['knotd', '-c', self.path('conf')]


class Bind(Authority):
    program = 'named'

    def conf(self):
        return (f'options {{ directory "{self.folder}"; listen-on port {self.port} {{ {self.host}; }}; listen-on-v6 {{ none; }};\n'
                f' pid-file "{self.path("pid")}"; session-keyfile "{self.path("key")}"; recursion no; dnssec-validation no;\n'
                ' notify no; }; controls { };\n'
                f'zone "{self.zone}" {{ type primary; file "{self.path("zone")}"; }};\n')

    def command(self):
        return ['named', '-g', '-n', '1', '-c', self.path('conf')]


class UdpOnly:
    """Passes datagrams on to a server and has no TCP: what a firewall with half its rules does."""

    def __init__(self, server):
        self.port = free_port()
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(('127.0.0.1', self.port))
        self.server = server
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            try:
                packet, peer = self.socket.recvfrom(4096)
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as onward:
                    onward.settimeout(5)
                    onward.sendto(packet, ('127.0.0.1', self.server.port))
                    self.socket.sendto(onward.recv(65535), peer)
            except OSError:
                if self.socket.fileno() < 0:
                    return

    at = property(lambda self: f'127.0.0.1@{self.port}')
    label = property(lambda self: f'127.0.0.1:{self.port}')

    def close(self):
        self.socket.close()
