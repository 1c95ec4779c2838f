"""Is an aggregate report of the form that RFC 9990 gives it? dmarc_aggregate.xsd says so, read by xmllint.

    wrong = faults(text)        # sentences; empty: the report follows the RFC"""
import ipaddress
import os
import shutil
import subprocess
import xml.etree.ElementTree

SCHEMA = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'dmarc_aggregate.xsd')
SPACE = '{urn:ietf:params:xml:ns:dmarc-2.0}'


def can_judge():
    return shutil.which('xmllint') is not None


def faults(text):
    done = subprocess.run(['xmllint', '--nonet', '--noout', '--schema', SCHEMA, '-'], input=text, capture_output=True, text=True)
    if done.returncode:
        return [line for line in done.stderr.splitlines() if 'error' in line] or [done.stderr]
    root, wrong = xml.etree.ElementTree.fromstring(text), []
    for address in root.iter(SPACE + 'source_ip'):
        try:
            ipaddress.ip_address(address.text)
        except ValueError as fault:
            wrong.append(str(fault))
    begin, end = (int(root.find(f'{SPACE}report_metadata/{SPACE}date_range/{SPACE}{word}').text) for word in ('begin', 'end'))
    return wrong if begin < end else wrong + [f'the range is {begin} to {end}']
