#!/usr/bin/env python3
"""Next hops whose TLS fails, seen from a terminal: DANE with a wrong record, signatures that are over, STARTTLS stripped; a wrong
name, and a handshake that is cut. `why` names the cause, the side and what to run; the other side mends it; what is said delivers."""
import os
import shutil
import tempfile

from lib import Checks, wait_until
from lib_faults import FaultServer, Mail, free_port
from lib_hop import NextHop
from lib_signed import Authority, SignedZones, tlsa_of
from test_diagnosis import sees, steps, type_in
from test_diagnosis_faults import starts_tls

checks = Checks()
NAMES = '127.0.0.57'


def bare(hop):
    hop.say('220 hop')
    hop.serve()


def cut(hop):
    """Agrees to STARTTLS, and is gone in the middle of the handshake."""
    hop.say('220 hop')
    hop.line()
    hop.say('250-hop\r\n250 STARTTLS')
    if hop.line() == 'STARTTLS':
        hop.say('220 go')
        hop.raw(b'\x16\x03\x03\x00\x7a\x02\x00\x00')


def stays(server, message, hop, *words):
    """One look at the message: what is wrong, on whose side, what to run; and nothing of it went out."""
    text = server.run('why', message)[1]
    sees(text, 'cause tls.policy.unmet (theirs)', 'means:', 'do:', f'holdfast retry {message}', *words)
    assert not hop.messages, 'it was sent'
    check, = [step for step in steps(text) if step.startswith('holdfast dns check')]
    report = [step for step in steps(text) if step.startswith('holdfast report')]
    assert len(report) == 1, text
    return check


def heals(server, message):
    wait_until('the old connection to end', lambda: server.metric('holdfast_sessions', direction='out') == 0)
    assert type_in(server, f'holdfast retry {message}')[0] == 0
    server.wait_events('delivery.done', 1, message=message)


def by_dane(script, mended, change, zone, *words):
    """The world of one zone that is signed; change(right) is its TLSA record before it is mended."""
    folder, port = tempfile.mkdtemp(prefix='holdfast-dane-'), free_port()
    os.chmod(folder, 0o755)
    authority = Authority(folder)
    certificate, key = authority.issue('mx', [f'mx.{zone}'])
    right = tlsa_of(certificate)

    def rows(tlsa):
        return {zone: [('@', 'MX', f'10 mx.{zone}.'), ('mx', 'A', '127.0.0.1'), (f'_{port}._tcp.mx', 'TLSA', tlsa)]}
    behaviour = {'script': script or starts_tls((certificate, key))}
    stale = {zone} if zone == 'stale' else set()
    zones = SignedZones(folder, NAMES, rows(change(right)), signed={zone}, stale=stale)
    anchor = os.path.join(folder, 'anchor')
    shutil.copy(zones.anchor, anchor)
    settings = (f'relay {{ from = {{"127.0.0.0/8"}}  port = {port} }}\nretry {{ schedule = {{1h}}  jitter = 0 }}\n'
                f'resolver {{ forward = {{"{NAMES}"}}  timeout = 2s  trust_anchor = "{anchor}" }}\n')
    try:
        with zones, NextHop(lambda hop: behaviour['script'](hop), port) as hop:
            server = FaultServer(settings, start=False)
            server.start()
            with server:
                Mail(to=f'x@{zone}').play(server)
                message = server.wait_events('delivery.deferred')[0]['message']
                check = stays(server, message, hop, *words)
                found = type_in(server, check)[1]
                assert zone in found, found
                behaviour['script'] = mended or starts_tls((certificate, key))
                zones.stop()
                shutil.rmtree(zones.folder, ignore_errors=True)
                again = SignedZones(folder, NAMES, rows(right), signed={zone})
                shutil.copy(again.anchor, anchor)
                with again:
                    server.stop()       # what was learned of the names is forgotten with the process
                    server.start()
                    heals(server, message)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def verified(wrong, mended, *words):
    """tls = verify by a route: wrong(authority) and mended(authority) give the next hop's script."""
    folder, port = tempfile.mkdtemp(prefix='holdfast-verify-'), free_port()
    authority = Authority(folder)
    behaviour = {'script': wrong(authority)}
    try:
        with NextHop(lambda hop: behaviour['script'](hop), port) as hop:
            with FaultServer(f'tls {{ authorities = "{authority.file}" }}\nrelay {{ from = {{"127.0.0.0/8"}} }}\n'
                             f'route "far.example" {{ via = "smtp:localhost:{port}"  tls = verify }}\n'
                             'retry { schedule = {1h}  jitter = 0 }\n') as server:
                Mail(to='x@far.example').play(server)
                message = server.wait_events('delivery.deferred')[0]['message']
                text = server.run('why', message)[1]
                sees(text, '(theirs)', 'means:', 'do:', f'holdfast retry {message}', *words)
                assert not hop.messages, 'it was sent'
                behaviour['script'] = mended(authority)
                heals(server, message)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def flipped(tlsa):
    return tlsa[:-1] + ('0' if tlsa[-1] != '0' else '1')


def main():
    checks.run('verify: the wrong name', lambda: verified(lambda ca: starts_tls(ca.issue('other', ['other.example'])),
                                                          lambda ca: starts_tls(ca.issue('right', ['localhost'])),
                                                          'cause tls.policy.unmet', 'ostname mismatch', 'stage=tls'))
    checks.run('TLS: cut in the handshake', lambda: verified(lambda ca: cut, lambda ca: starts_tls(ca.issue('right', ['localhost'])),
                                                             'stage=tls'))
    if os.geteuid() != 0 or not all(map(shutil.which, ('knotd', 'keymgr', 'kzonesign'))):
        checks.skip('DANE', 'needs root and knot')
        return checks.done()
    checks.run('DANE: a wrong TLSA record', lambda: by_dane(None, None, flipped, 'example', 'TLSA'))
    checks.run('DANE: STARTTLS stripped', lambda: by_dane(bare, None, lambda right: right, 'example', 'STARTTLS'))
    checks.run('DANE: signatures that are over', lambda: by_dane(None, None, lambda right: right, 'stale', 'stage=dns'))
    return checks.done()


if __name__ == '__main__':
    raise SystemExit(main())
