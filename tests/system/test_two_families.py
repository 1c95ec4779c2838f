#!/usr/bin/env python3
"""Hosts with IPv6 and IPv4 addresses, in a network namespace of the test's own: packets to one of the IPv6 addresses vanish in a tunnel
that nobody reads. Mail goes by IPv4 while the connection by IPv6 is still being tried, that try is given up, and the destination has
no failure; where both families answer IPv6 is used, from the source address that is set for it."""
import fcntl
import os
import socket
import struct
import subprocess
import sys

INSIDE = 'HOLDFAST_INSIDE_FAMILIES'
GONE, SIX, FOUR, SOURCE_SIX, SOURCE_FOUR = '2001:db8::25', 'fd00::25', '192.0.2.25', 'fd00::99', '192.0.2.99'
PORT = 2525


def skip(why):
    print(f'SKIP {why}\n0 passed, 0 failed, 1 skipped')
    raise SystemExit(0)


def enter():
    if os.environ.get(INSIDE):
        return
    if os.geteuid() != 0 or subprocess.run(['unshare', '-n', 'true'], stderr=subprocess.DEVNULL).returncode != 0:
        skip('namespaces need root')
    raise SystemExit(subprocess.run(['unshare', '-n', sys.executable, __file__], env={**os.environ, INSIDE: '1'}).returncode)


enter()

from lib import Checks, Client, Server, wait_until  # noqa: E402 (inside the namespace)
from lib_hop import Names, NextHop  # noqa: E402

checks = Checks()


def ip(*words):
    if subprocess.run(['ip', *words], stderr=subprocess.DEVNULL).returncode != 0:
        skip(f'ip {" ".join(words)} does not work here')


def make_network():
    """The tunnel swallows what is sent into it for as long as it is open."""
    try:
        tunnel = os.open('/dev/net/tun', os.O_RDWR)
        fcntl.ioctl(tunnel, 0x400454ca, struct.pack('16sH22x', b'nowhere', 0x0001 | 0x1000))      # TUNSETIFF: IFF_TUN, IFF_NO_PI
    except OSError as fault:
        skip(f'/dev/net/tun: {fault}')
    ip('link', 'set', 'lo', 'up')
    ip('link', 'set', 'nowhere', 'up')
    ip('-6', 'address', 'add', '2001:db8::1/64', 'dev', 'nowhere', 'nodad')
    for address in (SIX, SOURCE_SIX):
        ip('-6', 'address', 'add', f'{address}/128', 'dev', 'lo', 'nodad')
    for address in (FOUR, SOURCE_FOUR):
        ip('address', 'add', f'{address}/32', 'dev', 'lo')
    return tunnel


def dials_to_nowhere():
    """Connections that are being tried there now."""
    packed = struct.unpack('4I', socket.inet_pton(socket.AF_INET6, GONE))
    wanted = ''.join(f'{word:08X}' for word in packed) + f':{PORT:04X}'
    with open('/proc/net/tcp6') as file:
        return sum(1 for line in file if line.split()[2:4] == [wanted, '02'])


def sources_of_dials(tunnel):
    """Where the SYNs came from that have gone into the tunnel. An IPv6 header is 40 octets, source and destination from 8 and 24."""
    found = []
    os.set_blocking(tunnel, False)
    while True:
        try:
            packet = os.read(tunnel, 2048)
        except BlockingIOError:
            return found
        is_syn = packet[0] >> 4 == 6 and packet[6] == socket.IPPROTO_TCP and packet[53] & 0x12 == 0x02
        if is_syn and socket.inet_ntop(socket.AF_INET6, packet[24:40]) == GONE:
            found.append(socket.inet_ntop(socket.AF_INET6, packet[8:24]))


def send(server, domain):
    with Client(server.address()) as client:
        client.command('EHLO client.example')
        for command in (f'MAIL FROM:<a@{domain}>', f'RCPT TO:<box@{domain}>', 'DATA'):
            client.command(command)
        reply = client.command('Subject: families\r\n\r\nbody\r\n.')
        assert reply.code == 250, reply


def main():
    tunnel = make_network()
    zone = {('broken.example', 'MX'): ['10 mx.broken.example'], ('mx.broken.example', 'AAAA'): [GONE], ('mx.broken.example', 'A'): [FOUR],
            ('both.example', 'MX'): ['10 mx.both.example'], ('mx.both.example', 'AAAA'): [SIX], ('mx.both.example', 'A'): [FOUR]}
    seen = []

    def script(hop):
        seen.append((hop.socket.getsockname()[0], hop.socket.getpeername()[0]))
        hop.say('220 hop')
        hop.serve()

    with Names(zone) as names, NextHop(script, PORT, FOUR) as four, NextHop(script, PORT, SIX) as six, \
            Server(extra=f'relay {{ from = {{"127.0.0.0/8"}}  port = {PORT}  source_ipv4 = "{SOURCE_FOUR}"  source_ipv6 = "{SOURCE_SIX}" }}\n'
                         f'resolver {{ forward = {{"{names.address}"}} }}\n') as server:
        send(server, 'broken.example')
        wait_until('the message to go by IPv4', lambda: four.messages)
        checks.ok('IPv6 was tried first', SOURCE_SIX in sources_of_dials(tunnel))
        checks.ok('IPv4 is dialled from its source address', seen[0] == (FOUR, SOURCE_FOUR), f'{seen}')
        wait_until('the other dial to be given up', lambda: dials_to_nowhere() == 0)
        delivered = server.wait_events('delivery.done')
        checks.ok('long before a connection times out (30 s)', delivered[0]['took_ms'] < 20000, f'{delivered}')
        checks.ok('the journal names the host by its address', f'[{FOUR}]' in str(delivered[0]), f'{delivered}')
        checks.ok('the destination has no failure', not server.events('delivery.deferred') and 'connections failed' not in '\n'.join(server.lines))

        send(server, 'both.example')
        wait_until('the message to go by IPv6', lambda: six.messages)
        checks.ok('where both answer IPv6 is used, from its source address', seen[1] == (SIX, SOURCE_SIX), f'{seen}')
        checks.ok('and nobody dials twice', len(seen) == 2, f'{seen}')
    os.close(tunnel)
    return checks.done()


raise SystemExit(main())
