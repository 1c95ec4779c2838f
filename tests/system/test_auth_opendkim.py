#!/usr/bin/env python3
"""DKIM against opendkim (its test mode, keys from a file) and dkimpy: our signatures verified, changed messages judged alike, and
the messages of the vectors judged alike, but for the differences named here. SKIP without opendkim or python3-dkim."""
import glob
import os
import re
import shutil
import subprocess
import sys
import tempfile

from lib import Checks, shared
from lib_dns import SERVFAIL
from test_auth_dkimpy import DOMAIN, MESSAGES, Bench, changes, dkim

OPENDKIM = shutil.which('opendkim', path=os.environ.get('PATH', '') + ':/usr/sbin:/sbin')

# (message, who, signature) where we differ, and why.
NAMED = {
    ('09-limited_body.msg', 'dkimpy', 0): 'l= leaves a part of the body unsigned: "policy" here (RFC 6376 8.2)',
    ('09-limited_body.msg', 'opendkim', 0): 'the same',
    ('11-strict_domain_check_fail.msg', 'dkimpy', 0): 'dkimpy does not look at t=s (RFC 6376 3.6.1)',
}


def opendkim_passes(folder, names, message):
    """The first 8 characters of b= of the signatures that pass; None when it said nothing of any."""
    keys, file, settings = (os.path.join(folder, name) for name in ('keys', 'judged.eml', 'opendkim.conf'))
    with open(keys, 'w') as out:
        out.writelines(f'{name} {record}\n' for name, record in names.items())
    with open(settings, 'w') as out:
        out.write(f'Mode v\nTestPublicKeys {keys}\nSyslog no\nMaximumSignaturesToVerify 50\n')
    with open(file, 'wb') as out:
        out.write(message)
    done = subprocess.run([OPENDKIM, '-x', settings, '-t', file, '-vv'], capture_output=True, timeout=30)
    text = (done.stdout + done.stderr).decode(errors='replace')
    return set(re.findall(r'dkim=pass[^;]*?header\.b=["\']?([^;"\'\s]+)', text))


def first_of_b(message):
    """The first 8 characters of each signature's b=, from the top."""
    head = message.split(b'\r\n\r\n', 1)[0]
    fields = re.findall(rb'(?im)^dkim-signature[ \t]*:((?:.*\r?\n[ \t])*.*)', head)
    found = [re.search(rb'(?:^|[;\s])b\s*=([^;]*)', field) for field in fields]
    return [re.sub(rb'\s', b'', one.group(1))[:8].decode() if one else '' for one in found]


def dkimpy_pass(message, index, names):
    def record(name, timeout=5):
        return names.get((name.decode() if isinstance(name, bytes) else name).rstrip('.'), '').encode()
    try:
        return dkim.DKIM(message).verify(index, dnsfunc=record)
    except (dkim.DKIMException, ValueError, IndexError):
        return False


# opendkim's test mode hands the message on as a mail server would: whole lines, header values without their first blanks. So
# the simple form of the header and a last line without its end are not for it.
FORMS = ((b'relaxed', b'simple'), (b'relaxed', b'relaxed'))


def ours_verified(bench, checks):
    for name, message in MESSAGES.items():
        if not message.endswith(b'\r\n'):
            continue
        for key in bench.keys:
            signed = bench.sign(message, key)
            checks.ok(f'opendkim, {key.selector}, {name}', len(opendkim_passes(bench.folder, bench.names, signed)) == 1)


def changed_alike(bench, checks):
    for form in FORMS:
        for key in bench.keys[1:]:
            field = dkim.sign(MESSAGES['plain'], key.selector.encode(), DOMAIN.encode(), key.private, canonicalize=form,
                              signature_algorithm=key.algorithm,
                              include_headers=[b'from', b'to', b'subject', b'subject', b'x-empty'])
            for name, changed in changes(field + MESSAGES['plain']):
                ours = bench.judge(changed)['dkim'][0]
                theirs = opendkim_passes(bench.folder, bench.names, changed)
                checks.ok(f'{name}, {key.selector}, {form[1].decode()}: {"pass" if theirs else "no pass"}',
                          (ours['result'] == 'pass') == bool(theirs), (ours, theirs))


def zone_of(path):
    """chasquid's `name: value` with joined lines; names with one good record."""
    text = open(path).read().replace('\\\n', '') if os.path.exists(path) else ''
    rows = {}
    for line in text.split('\n'):
        name, colon, value = line.partition(':')
        if colon:
            rows.setdefault(name.strip(), []).append(value.strip())
    return rows


def vectors_alike(bench, checks, folder):
    for path in sorted(glob.glob(os.path.join(folder, '*.msg'))):
        file = os.path.basename(path)
        message = open(path, 'rb').read().replace(b'\r\n', b'\n').replace(b'\n', b'\r\n')
        rows = zone_of(path[:-4] + '.dns')
        script = {name: SERVFAIL if 'TEMPERROR' in values else tuple(v for v in values if v != 'PERMERROR') for name, values in rows.items()}
        bench.server.script = {(name, 'TXT'): values for name, values in script.items() if values}
        # They are given one record a name; of several any may be the right one.
        good = {name: values for name, values in script.items() if values and values != SERVFAIL}
        choices = [{name: values[min(turn, len(values) - 1)] for name, values in good.items()} for turn in range(2)]
        ours = bench.judge(message)['dkim']
        starts = first_of_b(message)
        opendkim = set().union(*(opendkim_passes(bench.folder, names, message) for names in choices))
        for index, fact in enumerate(ours):
            judged = {'dkimpy': any(dkimpy_pass(message, index, names) for names in choices),
                      'opendkim': starts[index] in opendkim}
            for who, theirs in judged.items():
                reason = NAMED.get((file, who, index))
                if reason:
                    checks.ok(f'{file} {index} {who} differs: {reason}', (fact['result'] == 'pass') != theirs, (fact, theirs))
                else:
                    checks.ok(f'{file} {index} {who}', (fact['result'] == 'pass') == theirs, (fact, theirs))


def main():
    checks = Checks()
    if not OPENDKIM:
        checks.skip('opendkim', 'opendkim is not installed')
        return checks.done()
    folder = shared('vectors', 'dkim-chasquid')
    with tempfile.TemporaryDirectory() as place:
        bench = Bench(place)
        ours_verified(bench, checks)
        changed_alike(bench, checks)
        if folder:
            vectors_alike(bench, checks, folder)
        bench.server.close()
    return checks.done()


if __name__ == '__main__':
    sys.exit(main())
