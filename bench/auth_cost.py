#!/usr/bin/env python3
"""What SPF, DKIM and DMARC add to the CPU of accepting a signed 10 KiB message, beyond the cryptography itself.

usage: auth_cost.py --build DIR [--messages N] [--rounds N] [--perf]

The same messages go to the same server with the checks off and on, in turns; its CPU is read from the kernel. The answers of
DNS come from the resolver's memory, as they do for whoever sends often. bench/auth_crypto.c measures the cryptography alone.
The mail is for a next hop that is down, so that delivery costs next to nothing in both.

--perf: one run with the checks on under `perf record` instead. Samples inside verification but outside of OpenSSL's hashes,
keys and signatures, as a share of all samples outside of verification: this stays steady on a machine that is busy, where
the difference of two runs does not.
"""
import argparse
import collections
import os
import signal
import statistics
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(ROOT, 'tests', 'system'))

HZ = os.sysconf('SC_CLK_TCK')


def cpu_s(pid):
    with open(f'/proc/{pid}/stat') as file:
        fields = file.read().rsplit(')', 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / HZ


def make_keys(folder):
    pem, der = os.path.join(folder, 'key.pem'), os.path.join(folder, 'key.der')
    subprocess.run(['openssl', 'genrsa', '-traditional', '-out', pem, '2048'], check=True, stderr=subprocess.DEVNULL)
    subprocess.run(['openssl', 'rsa', '-in', pem, '-pubout', '-outform', 'DER', '-out', der], check=True, stderr=subprocess.DEVNULL)
    return pem, der


def make_message(holdfast, pem):
    body = ''.join(f'Line {n:04} of a message that is ten kibibytes long, more or less, words and words.\r\n' for n in range(124))
    head = ('From: Ann <ann@sender.example>\r\nTo: alice@home.example\r\nSubject: a message\r\nMessage-ID: <1@sender.example>\r\n'
            'Date: Tue, 24 Nov 2026 10:00:00 +0000\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n')
    done = subprocess.run([holdfast, 'sign', '-', '--domain', 'sender.example', '--selector', 's', '--key', pem],
                          input=(head + body).encode(), capture_output=True, check=True)
    return done.stdout


def measure(server, lib, message, count):
    """Microseconds of the server's CPU a message, over one session."""
    talk = b'MAIL FROM:<ann@sender.example>\r\nRCPT TO:<alice@home.example>\r\nDATA\r\n'
    with lib.Client(server.address()) as client:
        client.command('EHLO client.example')
        begin = 0.0
        for number in range(count + 50):
            if number == 50:  # answers of DNS and caches are warm
                begin = cpu_s(server.process.pid)
            client.send(talk)
            client.replies(3)
            client.send(message + b'.\r\n')
            reply = client.reply()
            if reply.code != 250:
                raise SystemExit(f'auth_cost: {reply.lines}')
        return (cpu_s(server.process.pid) - begin) * 1e6 / count


VERIFICATION = {'policy_body_add', 'policy_body_begin', 'policy_transaction_end', 'authenticate_message', 'authenticate_sender',
                'authenticate_recipient'}
CRYPTOGRAPHY = {'public_key_open', 'public_key_verifies', 'public_key_bits', 'public_key_close', 'digest_open', 'digest_add',
                'digest_finish', 'digest_close'}


def fold(path):
    """Counts of samples: all, in verification, and in the cryptography of that."""
    text = subprocess.run(['perf', 'script', '-i', path, '-F', 'comm,ip,sym'], capture_output=True, text=True, check=True).stdout
    counts = collections.Counter()
    for block in text.split('\n\n'):
        lines = block.strip().split('\n')
        symbols = {(line.split(None, 1) + [''])[1].replace(' (inlined)', '').strip() for line in lines[1:]}
        if symbols:
            inside = bool(symbols & VERIFICATION)
            counts.update(all=1, inside=inside, crypto=inside and bool(symbols & CRYPTOGRAPHY))
    return counts['all'], counts['inside'], counts['crypto']


def by_perf(server, lib, message, options, folder):
    path = os.path.join(folder, 'perf.data')
    perf = subprocess.Popen(['perf', 'record', '-F', '1999', '--call-graph', 'dwarf,8192', '-o', path, '-p', str(server.process.pid)],
                            stderr=subprocess.DEVNULL)
    try:
        measure(server, lib, message, options.messages)
    finally:
        perf.send_signal(signal.SIGINT)
        perf.wait()
    samples, inside, crypto = fold(path)
    print(f'samples: {samples}; in verification {inside}, {crypto} of them in the cryptography')
    print(f'beyond the cryptography: {100 * (inside - crypto) / (samples - inside):.1f} % of accepting')


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('--build', required=True)
    parser.add_argument('--messages', type=int, default=3000)
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--perf', action='store_true')
    options = parser.parse_args()
    holdfast = os.path.join(options.build, 'holdfast')
    os.environ['HOLDFAST'] = holdfast
    import base64
    import lib
    from lib_dns import ScriptedDns
    with tempfile.TemporaryDirectory(prefix='holdfast-bench-') as folder:
        pem, der = make_keys(folder)
        message = make_message(holdfast, pem)
        crypto = min(float(subprocess.run([os.path.join(options.build, 'tests', 'unit', 'auth_crypto'), pem, der], check=True,
                                          capture_output=True, text=True).stdout) for _ in range(3))
        key = 'v=DKIM1; k=rsa; p=' + base64.b64encode(open(der, 'rb').read()).decode()
        names = ScriptedDns({('s._domainkey.sender.example', 'TXT'): key, ('sender.example', 'TXT'): 'v=spf1 ip4:127.0.0.1 -all',
                             ('_dmarc.sender.example', 'TXT'): 'v=DMARC1; p=reject', 
                             ('_dmarc.example', 'TXT'): 'no policy', ('client.example', 'TXT'): 'v=spf1 ip4:127.0.0.1 -all'}, ttl=3600)
        text = ('hostname = "mx.home.example"\nspool = "{folder}/spool"\nlisten smtp { address = "127.0.0.1:0" }\nloops = 1\n'
                'domain "home.example" { users = "file:{folder}/users"  deliver = "smtp:127.0.0.1:1" }\n'
                f'resolver {{ forward = {{"127.0.0.1@{names.port}"}} }}\n'
                'log { format = json  level = info }\n')
        on = 'checks { spf = enforce  dkim = record  dmarc = enforce }\n'
        if options.perf:
            with lib.Server(text=text + on) as server:
                by_perf(server, lib, message, options, folder)
            return 0
        found = {'off': [], 'on': []}
        for _ in range(options.rounds):
            for name, checks in (('off', ''), ('on', on)):
                with lib.Server(text=text + checks) as server:
                    found[name].append(measure(server, lib, message, options.messages))
        print(f'questions that reached the name server: {len(names.asked)}')
        names.close()
    off, with_checks = statistics.median(found['off']), statistics.median(found['on'])
    beyond = with_checks - off - crypto
    print(f'accepting: {off:.1f} us of CPU a message; with SPF, DKIM and DMARC: {with_checks:.1f} us; cryptography alone: {crypto:.1f} us')
    print(f'beyond the cryptography: {beyond:.1f} us, {100 * beyond / off:.1f} % of accepting')
    print('rounds, off: ' + ' '.join(f'{one:.1f}' for one in found['off']) + '; on: ' + ' '.join(f'{one:.1f}' for one in found['on']))
    return 0


if __name__ == '__main__':
    sys.exit(main())
