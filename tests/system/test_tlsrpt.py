#!/usr/bin/env python3
"""`holdfast tlsrpt report`: what came of TLS with others, to whom their DNS names, as RFC 8460 wants it. The results are those of the
RFC's own example (appendix B), put into tls.db; the mail that comes out at the next hop is taken apart and held against it."""
import base64
import datetime
import email
import gzip
import json
import os
import shutil
import sqlite3
import subprocess
import sys

try:
    import dkim
except ImportError:
    dkim = None
    if sys.executable != '/usr/bin/python3' and os.path.exists('/usr/lib/python3/dist-packages/dkim'):
        os.execv('/usr/bin/python3', ['/usr/bin/python3', *sys.argv])

from lib import Checks, Server, wait_until
from lib_dns import ScriptedDns
from lib_hop import NextHop

checks = Checks()
POLICY = 'version: STSv1\nmode: testing\nmx: *.mail.company-y.example\nmax_age: 86400'
STS = 1
ROWS = [  # host, ip, source, failure, reason, count
    ('', '', '', '', '', 5326),
    ('mx1.mail.company-y.example', '', '2001:db8:abcd:0012::1', 'certificate-expired', '', 100),
    ('mx2.mail.company-y.example', '203.0.113.56', '2001:db8:abcd:0013::1', 'starttls-not-supported', '', 200),
    ('mx-backup.mail.company-y.example', '203.0.113.58', '198.51.100.62', 'validation-failure', 'X509_V_ERR_PROXY_PATH_LENGTH_EXCEEDED', 3),
]
EXAMPLE = {
    'policy': {'policy-type': 'sts', 'policy-string': POLICY.split('\n'), 'policy-domain': 'company-y.example', 'mx-host': ['*.mail.company-y.example']},
    'summary': {'total-successful-session-count': 5326, 'total-failure-session-count': 303},
    'failure-details': [
        {'result-type': 'certificate-expired', 'sending-mta-ip': '2001:db8:abcd:0012::1', 'receiving-mx-hostname': 'mx1.mail.company-y.example', 'failed-session-count': 100},
        {'result-type': 'starttls-not-supported', 'sending-mta-ip': '2001:db8:abcd:0013::1', 'receiving-mx-hostname': 'mx2.mail.company-y.example',
         'receiving-ip': '203.0.113.56', 'failed-session-count': 200},
        {'result-type': 'validation-failure', 'sending-mta-ip': '198.51.100.62', 'receiving-ip': '203.0.113.58',
         'receiving-mx-hostname': 'mx-backup.mail.company-y.example', 'failed-session-count': 3, 'failure-reason-code': 'X509_V_ERR_PROXY_PATH_LENGTH_EXCEEDED'}],
}
TODAY = (datetime.datetime.utcnow() - datetime.datetime(1970, 1, 1)).days
RUA = {'company-y.example': 'v=TLSRPTv1; rua=mailto:reports@company-y.example,https://reports.example/v1/tlsrpt', 'silent.example': None,
       'twice.example': ('v=TLSRPTv1; rua=mailto:a@twice.example', 'v=TLSRPTv1; rua=mailto:b@twice.example'), 'today.example': 'v=TLSRPTv1; rua=mailto:x@today.example'}


def hop_script(hop):
    hop.say('220 hop')
    hop.serve()


def fill(server):
    path = os.path.join(server.folder, 'spool', 'tls.db')
    wait_until('tls.db', lambda: os.path.exists(path))
    with sqlite3.connect(path, timeout=30) as database:
        for domain in RUA:
            day = TODAY if domain == 'today.example' else TODAY - 1
            database.executemany('INSERT INTO results VALUES (?,?,?,?,?,?,?,?,?,?)', [(day, domain, STS, POLICY, *row) for row in ROWS])
    database.close()


def report(server, *more):
    code, out, error = server.run('tlsrpt', 'report', *more)
    return code, out.splitlines(), error


def only_told(server, hop):
    code, out, error = report(server)
    assert code == 0, (code, out, error)
    assert any(line.startswith('company-y.example ') and '5326 good, 303 failed: would go to reports@company-y.example' in line for line in out), out
    assert any('https://reports.example/v1/tlsrpt is left out' in line for line in out), out
    assert not [line for line in out if line.startswith(('silent.example', 'twice.example', 'today.example'))], out
    assert not os.listdir(os.path.join(server.folder, 'spool-drop')) == [], 'there is an origin at least'
    assert not hop.messages


def arrives(server, hop, key):
    code, out, error = report(server, 'company-y.example', '--send')
    assert code == 0 and any('queued for reports@company-y.example' in line for line in out), (code, out, error)
    wait_until('the report at the next hop', lambda: hop.messages)
    sender, recipients, body = hop.messages[0]
    assert (sender, recipients) == ('tls@rcpt.test', ['reports@company-y.example']), (sender, recipients)
    mail = email.message_from_bytes(body)
    assert mail.get_content_type() == 'multipart/report' and mail.get_param('report-type') == 'tlsrpt', mail['Content-Type']
    assert mail['TLS-Report-Domain'] == 'company-y.example' and mail['TLS-Report-Submitter'] == 'mx.test', mail.items()
    assert mail['TLS-Required'] == 'No' and 'Report Domain: company-y.example Submitter: mx.test' in mail['Subject'], mail.items()
    words, packed = mail.get_payload()
    assert words.get_content_type() == 'text/plain' and packed.get_content_type() == 'application/tlsrpt+gzip'
    start, end = (TODAY - 1) * 86400, TODAY * 86400 - 1
    assert packed.get_filename() == f'mx.test!company-y.example!{start}!{end}!1.json.gz', packed.get_filename()
    found = json.loads(gzip.decompress(packed.get_payload(decode=True)))
    day = (datetime.datetime.utcfromtimestamp(start)).strftime('%Y-%m-%d')
    assert found['date-range'] == {'start-datetime': f'{day}T00:00:00Z', 'end-datetime': f'{day}T23:59:59Z'}, found
    assert found['organization-name'] == 'mx.test' and found['contact-info'] == 'tls@rcpt.test' and found['report-id'] in mail['Subject'].replace('\r\n', ''), found
    assert set(found) == {'organization-name', 'date-range', 'contact-info', 'report-id', 'policies'}, found
    policy, = found['policies']
    assert sorted(policy.pop('failure-details'), key=str) == sorted(EXAMPLE['failure-details'], key=str), policy
    assert policy == {name: value for name, value in EXAMPLE.items() if name != 'failure-details'}, policy
    if key and dkim:
        assert dkim.verify(body, dnsfunc=lambda name, **more: key, tlsrpt=True), 'the signature does not hold'
        assert b'd=rcpt.test' in body.split(b'\r\n\r\n')[0]


def off(server):
    """Without the setting nothing is sent."""
    with open(server.config) as file:
        text = file.read()
    with open(server.config, 'w') as file:
        file.write(text.replace('tls_report {', '# tls_report {'))
    code, out, error = report(server, '--send')
    assert code == 1 and 'tls_report { from' in error and not out, (code, out, error)


def main():
    names = ScriptedDns({**{(f'_smtp._tls.{domain}', 'TXT'): value for domain, value in RUA.items() if isinstance(value, str)},
                         ('_smtp._tls.twice.example', 'TXT'): RUA['twice.example']})
    with NextHop(hop_script) as hop:
        server = Server(extra=f'route "company-y.example" {{ via = "smtp:127.0.0.1:{hop.port}" }}\n'
                              f'resolver {{ forward = {{"127.0.0.1@{names.port}"}} }}\ntls_report {{ from = "tls@rcpt.test" }}\n', start=False)
        record = None
        if shutil.which('openssl'):
            path = os.path.join(server.folder, 'dkim.pem')
            subprocess.run(['openssl', 'genrsa', '-out', path, '2048'], check=True, stderr=subprocess.DEVNULL)
            der = subprocess.run(['openssl', 'rsa', '-in', path, '-pubout', '-outform', 'DER'], check=True, capture_output=True).stdout
            record = b'v=DKIM1; k=rsa; s=tlsrpt; p=' + base64.b64encode(der)
            with open(server.config, 'a') as file:
                file.write(f'sign tls {{ domain = "rcpt.test"  selector = "s"  key = "{path}" }}\n')
        with server:
            server.start()
            fill(server)
            checks.run('without --send it says to whom, of whole days, who asks by one record', lambda: only_told(server, hop))
            checks.run('with --send the report of the RFC arrives', lambda: arrives(server, hop, record))
            checks.run('without the setting nothing is sent', lambda: off(server))
        checks.ok('the next hop heard nothing strange', not hop.faults, hop.faults)
    names.close()
    return checks.done()


if __name__ == '__main__':
    raise SystemExit(main())
