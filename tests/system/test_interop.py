#!/usr/bin/env python3
"""Messages to and from Postfix, Exim, OpenSMTPD, chasquid and Dovecot's LMTP through a proxy that answers 4yz, resets and cuts
by chance, while Holdfast is killed and the peers are restarted: each message ends in one mailbox, and extra copies come only
where a final reply was lost, once each; none is bounced.

    python3 tests/system/test_interop.py [--count N] [--seed S] [--write] [NAME...]     HOLDFAST_FULL=1: 10,000 messages each way
    --write puts what came of it into the table of docs/interop.md, in place of the rows of the same direction and peer.

OpenSMTPD and chasquid wait minutes between attempts, so they are told to try again now."""
import argparse
import collections
import os
import random
import re
import socket
import subprocess
import threading
import time

import lib_peers

PEERS = {kind.name: kind for kind in (lib_peers.Postfix, lib_peers.Exim, lib_peers.OpenSmtpd, lib_peers.Chasquid, lib_peers.Dovecot)}
lib_peers.enter(__file__, *(kind for kind in PEERS.values() if kind is not lib_peers.Dovecot))

from lib import ROOT, Checks, Client, Closed, Server, wait_until  # noqa: E402 (inside the namespaces)
from lib_chaos import Chaos  # noqa: E402

FULL = bool(os.environ.get('HOLDFAST_FULL'))
HOLD_IP, TO_PEER_IP, TO_HOLD_IP = '127.0.0.10', '127.0.0.31', '127.0.0.30'
CONFIG = '''
hostname = "mx.hold.example"
spool = "{folder}/spool"
listen smtp { address = "127.0.0.10:25" }
domain "hold.example" { deliver = "maildir:{folder}/mail/{domain}/{user}" }
relay { from = {"127.0.0.0/8"} }
route "dovecot.example" { via = "lmtp:127.0.0.31:24" }
retry { schedule = {1s}  ambiguous_pause = 1s  warn_after = 1h  expire_after = 1d  jitter = 0 }
'''
SESSIONS = 8
checks = Checks()
RESULTS = {}        # 'to postfix': what came of it
DOCUMENT = os.path.join(ROOT, 'docs/interop.md')


# ------------------------------------------------------------------ the client that puts messages in

class Loader:
    """Gives messages to a server, each until it was told 250. `ambiguous`: ids whose final reply it did not read."""

    def __init__(self, address, recipient, idents):
        self.address, self.recipient, self.left = address, recipient, list(reversed(idents))
        self.lock, self.accepted, self.refused = threading.Lock(), set(), []
        self.ambiguous = collections.Counter()
        self.threads = [threading.Thread(target=self.run, daemon=True) for _ in range(SESSIONS)]

    def start(self):
        for thread in self.threads:
            thread.start()
        return self

    def take(self):
        with self.lock:
            return self.left.pop() if self.left else None

    def run(self):
        client, ident = None, self.take()
        while ident:
            try:
                if client is None:
                    client = Client(self.address)
                    client.command('EHLO client.example')
                if self.give(client, ident):
                    ident = self.take()
                    continue
            except (OSError, Closed):
                pass
            if client:
                client.close()
            client = None
            time.sleep(0.05)        # its server is being started again
        if client:
            client.close()

    def give(self, client, ident):
        for command in (f'MAIL FROM:<{ident}@client.example>', f'RCPT TO:<{self.recipient}>', 'DATA'):
            reply = client.command(command)
            if reply.code >= 400:
                return self.told(ident, reply)
        try:
            reply = client.command(f'From: <{ident}@client.example>\r\nTo: <{self.recipient}>\r\nSubject: interop\r\nX-Id: {ident}\r\n\r\n'
                                   + 'All mail arrives.\r\n' * 60 + '.')
        except (OSError, Closed):
            self.ambiguous[ident] += 1
            raise
        return self.told(ident, reply)

    def told(self, ident, reply):
        if 500 <= reply.code:
            self.refused.append((ident, reply))
            return True
        if reply.code == 250:
            with self.lock:
                self.accepted.add(ident)
        return reply.code == 250

    def wait_share(self, share, patience_s):
        total = len(self.left) + len(self.accepted)
        wait_until(f'{share:.0%} of the messages to be accepted', lambda: len(self.accepted) >= share * total or not self.alive(), patience_s)

    def alive(self):
        return any(thread.is_alive() for thread in self.threads)

    def wait(self, patience_s):
        wait_until('the loader to end', lambda: not self.alive(), patience_s)
        assert not self.refused, f'refused: {self.refused[:3]}'


# ------------------------------------------------------------------ Holdfast, killed now and then

class Hold(Server):
    """Its journal goes on over its lives."""
    earlier, kills = [], 0

    def restart_by_force(self, chaos=None):
        """chaos: what the server was told just now may be unrecorded."""
        self.kill()
        self.kills += 1
        self.earlier = self.earlier + self.events()
        if chaos:
            chaos.crashed({event['from'].split('@')[0] for event in self.earlier if event.get('event') == 'delivery.done'})
        self.start()

    def all_events(self):
        return self.earlier + self.events()

    def queue_is_empty(self):
        code, out, _ = self.run('queue', '--json')
        return code == 0 and '"id"' not in out


def count_files(folder):
    return sum(len(os.listdir(os.path.join(folder, sub))) for sub in ('new', 'cur') if os.path.isdir(os.path.join(folder, sub)))


def copies_in(folder):
    """{id: the uppermost Received of each copy}; of one transaction they are the same to the letter."""
    found = collections.defaultdict(list)
    for mail in lib_peers.read_maildir(folder):
        ident = re.search(rb'(?m)^X-Id: (\S+)', mail)
        received = re.search(rb'(?m)^Received:.*\n(?:[ \t].*\n)*', mail)
        found[ident.group(1).decode() if ident else '?'].append(received.group(0) if received else b'')
    return found


def wait_all(mailbox, idents, push, patience_s):
    """Every message is there; `push` makes a sender that stands still, since it would wait for minutes, try again."""
    end, moved, count = time.monotonic() + patience_s, time.monotonic(), 0
    while True:
        now = count_files(mailbox)
        if now != count:
            count, moved = now, time.monotonic()
        if count >= len(idents) and not set(idents) - set(copies_in(mailbox)):
            return
        assert time.monotonic() < end, f'{len(set(idents) - set(copies_in(mailbox)))} of {len(idents)} are missing'
        if time.monotonic() - moved > 3:
            push()
            moved = time.monotonic()
        time.sleep(0.2)


def judge(name, mailbox, idents, chaos, loader, peers_own=False):
    """peers_own: the mailbox is the peer's, and what it took once and stored twice when it was restarted is not ours."""
    ambiguous = chaos.ambiguous + loader.ambiguous
    copies = copies_in(mailbox)
    found = collections.Counter({ident: len(set(copy) if peers_own else copy) for ident, copy in copies.items()})
    own = sum(map(len, copies.values())) - sum(found.values())
    if own:
        print(f'# {name}: {own} copies more are of transactions that the peer took once', flush=True)
    lost = [ident for ident in idents if not found[ident]]
    beyond = {ident: (count, ambiguous[ident]) for ident, count in found.items() if count > 1 + ambiguous[ident]}
    extra = sum(found.values()) - len(idents)
    checks.ok(f'{name}: each of {len(idents)} messages is in the mailbox', not lost, f'lost: {lost[:5]}')
    checks.ok(f'{name}: extra copies ({extra}) only for lost replies ({sum(ambiguous.values())})', not beyond, f'id: (copies, lost replies): {beyond}')
    for ident in beyond:
        print(f'# {ident} was taken as: ' + b' and as: '.join(sorted(copies[ident])).decode(errors='replace').replace('\n', ''), flush=True)
    checks.ok(f'{name}: nothing else is there', set(found) <= set(idents), str(set(found) - set(idents)))
    RESULTS[name] = {'messages': len(idents), 'lost': len(lost), 'extra': extra, 'ambiguous': sum(ambiguous.values()), 'beyond': len(beyond),
                     'deferred': count_of(chaos, 'deferred'), 'cut': count_of(chaos, 'cut')}


def count_of(chaos, what):
    return sum(count for name, count in chaos.count.items() if name.startswith(what))


def nothing_bounced(name, hold):
    bad = [event for event in hold.all_events() if event.get('event') in ('message.bounced', 'delivery.failed', 'message.expired', 'message.damaged')]
    checks.ok(f'{name}: Holdfast bounced nothing', not bad, str(bad[:2]))
    RESULTS[name].update(bounced=len(bad), kills=hold.kills)


# ------------------------------------------------------------------ the two directions

def send_to(peer, zone, count, seed):
    """Client -> Holdfast -> chaos -> peer's mailbox."""
    name = f'to {peer.name}'
    zone.add(peer.domain, peer.host, TO_PEER_IP)
    with Chaos((TO_PEER_IP, peer.address[1]), peer.address, seed) as chaos:
        send_to_through(name, peer, chaos, count)


def send_to_through(name, peer, chaos, count):
    idents = [f'to-{peer.name}-{number}' for number in range(count)]
    patience_s = 60 + count / 20
    with Hold(text=CONFIG) as hold:
        loader = Loader((HOLD_IP, 25), peer.box, idents).start()
        for share in (0.3, 0.7):
            loader.wait_share(share, patience_s)
            hold.restart_by_force(chaos)
            if share == 0.3:
                peer.restart()
        loader.wait(patience_s)
        hold.restart_by_force(chaos)
        wait_all(peer.mailbox, idents, peer.flush, patience_s)
        wait_until('the queue of Holdfast to be empty', hold.queue_is_empty, 60)
        judge(name, peer.mailbox, idents, chaos, loader, peers_own=True)
        nothing_bounced(name, hold)
        tell_of(name, hold, chaos)


def tell_of(name, hold, chaos):
    """Each reply that the proxy lost is told in the journal by its name, but for those that a kill took along."""
    named = sum(1 for event in hold.all_events() if event.get('event') == 'delivery.deferred' and event.get('cause') == 'ambiguous.dot')
    lost = chaos.count['cut at the final reply']
    print(f'# {name}: {dict(chaos.count)}; the journal names ambiguous.dot {named} times', flush=True)
    checks.ok(f'{name}: the journal names the lost replies', named > 0 or lost <= 3, f'{named} named, {lost} cut')


def send_from(peer, zone, count, seed):
    """Client -> peer -> chaos -> Holdfast's mailbox."""
    name = f'from {peer.name}'
    zone.add('hold.example', 'mx.hold.example', TO_HOLD_IP)
    with Chaos((TO_HOLD_IP, 25), (HOLD_IP, 25), seed) as chaos:
        send_from_through(name, peer, chaos, count)


def send_from_through(name, peer, chaos, count):
    idents = [f'from-{peer.name}-{number}' for number in range(count)]
    patience_s = 90 + count / 10
    peer.when_down = lambda: chaos.crashed(still_held=peer.held())
    with Hold(text=CONFIG) as hold:
        mailbox = os.path.join(hold.folder, 'mail/hold.example/box')
        loader = Loader(peer.address, peer.way_out('box@hold.example'), idents).start()
        loader.wait_share(0.5, patience_s)
        hold.restart_by_force()
        loader.wait(patience_s)
        peer.restart()
        wait_until('a third to be there', lambda: count_files(mailbox) >= count / 3, patience_s)
        hold.restart_by_force()
        wait_all(mailbox, idents, peer.flush, patience_s)
        wait_until('the queue of Holdfast to be empty', hold.queue_is_empty, 60)
        judge(name, mailbox, idents, chaos, loader)
        nothing_bounced(name, hold)
        print(f'# {name}: {dict(chaos.count)}', flush=True)


# ------------------------------------------------------------------ the table

def row_of(name, result):
    verdict = 'each in one mailbox' if result['lost'] == result['bounced'] == 0 else f'**{result["lost"]} lost, {result["bounced"]} bounced**'
    copies = f'{result["extra"]}' + (f' (**{result["beyond"]} beyond**)' if result['beyond'] else '')
    return (f'| {name} | {result["messages"]:,} | {verdict} | {copies} | {result["ambiguous"]} | {result["deferred"]} | {result["cut"]} | {result["kills"]} + 1 '
            f'| {result["seconds"]:.0f} s | {result["seed"]} | {result["commit"]} |')


def write_table(seed):
    begin, end = '<!-- interop -->\n', '<!-- /interop -->\n'
    commit = subprocess.run(['git', '-C', ROOT, 'rev-parse', '--short', 'HEAD'], capture_output=True, text=True).stdout.strip() or 'unknown'
    with open(DOCUMENT) as file:
        before, rest = file.read().split(begin)
    table, after = rest.split(end)
    head, rows = table.splitlines()[:2], {line.split('|')[1].strip(): line for line in table.splitlines()[2:]}
    for name, result in RESULTS.items():
        if 'seconds' in result:
            rows[name] = row_of(name, {**result, 'seed': seed, 'commit': commit})
    order = [f'{way} {name}' for name in PEERS for way in ('to', 'from')]
    lines = head + [rows[name] for name in order if name in rows]
    with open(DOCUMENT, 'w') as file:
        file.write(before + begin + '\n'.join(lines) + '\n' + end + after)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('--count', type=int, default=10000 if FULL else 120)
    parser.add_argument('--seed', type=int, default=random.randrange(1 << 30))
    parser.add_argument('--write', action='store_true')
    parser.add_argument('names', nargs='*', help=f'of {", ".join(PEERS)}')
    options = parser.parse_args()
    print(f'# seed {options.seed}, {options.count} messages each way', flush=True)
    zone = lib_peers.Zone()
    for name, kind in PEERS.items():
        if options.names and name not in options.names:
            continue
        for direction in (send_to,) if kind is lib_peers.Dovecot else (send_to, send_from):
            began = time.monotonic()
            try:
                with kind() as peer:
                    direction(peer, zone, options.count, options.seed)
            except (AssertionError, OSError, subprocess.SubprocessError, socket.error) as fault:
                checks.ok(f'{direction.__name__} {name}', False, f'{type(fault).__name__}: {fault}')
            seconds = time.monotonic() - began
            RESULTS.get(f'{direction.__name__[5:]} {name}', {})['seconds'] = seconds
            print(f'# {direction.__name__} {name} took {seconds:.0f} s', flush=True)
            if options.write:
                write_table(options.seed)
    zone.close()
    return checks.done()


raise SystemExit(main())
