"""The form of an aggregate report as RFC 9990 section 3.1 has it, table by table: which elements, how often, in which order where that
counts, with which values.

    wrong = faults(text)        # a list of sentences; empty: the report follows the RFC
"""
import ipaddress
import re
import xml.etree.ElementTree

SPACE = '{urn:ietf:params:xml:ns:dmarc-2.0}'
ANY, NUMBER, DOMAIN = '.+', r'\d+', r'[a-z0-9_-]+(\.[a-z0-9_-]+)*'
POLICY, ALIGNED, MODE = 'none|quarantine|reject', 'pass|fail', '[rs]'
DKIM = 'none|pass|fail|policy|neutral|temperror|permerror'
SPF = 'none|pass|fail|softfail|policy|neutral|temperror|permerror'
OVERRIDE = 'local_policy|mailing_list|other|policy_test_mode|trusted_forwarder'

# element: (do its children have an order?, {child: (how often: R once, O at most once, * any number, + at least once; content)}), where
# content is the name of a row of this table, or a pattern.
FORM = {
    'feedback': (True, {'version': ('O', r'1\.0'), 'report_metadata': ('R', 'report_metadata'), 'policy_published': ('R', 'policy_published'),
                        'record': ('+', 'record')}),
    'report_metadata': (False, {'org_name': ('R', ANY), 'email': ('R', r'[^@\s]+@' + DOMAIN), 'extra_contact_info': ('O', ANY),
                                'report_id': ('R', ANY), 'date_range': ('R', 'date_range'), 'error': ('O', ANY), 'generator': ('O', ANY)}),
    'date_range': (False, {'begin': ('R', NUMBER), 'end': ('R', NUMBER)}),
    'policy_published': (False, {'domain': ('R', DOMAIN), 'discovery_method': ('O', 'psl|treewalk'), 'p': ('R', POLICY), 'sp': ('O', POLICY),
                                 'np': ('O', POLICY), 'fo': ('O', '[01ds](:[01ds])*'), 'adkim': ('O', MODE), 'aspf': ('O', MODE),
                                 'testing': ('O', '[ny]')}),
    'record': (True, {'row': ('R', 'row'), 'identifiers': ('R', 'identifiers'), 'auth_results': ('R', 'auth_results')}),
    'row': (False, {'source_ip': ('R', ANY), 'count': ('R', NUMBER), 'policy_evaluated': ('R', 'policy_evaluated')}),
    'policy_evaluated': (True, {'disposition': ('R', 'none|pass|quarantine|reject'), 'dkim': ('R', ALIGNED), 'spf': ('R', ALIGNED),
                                'reason': ('*', 'reason')}),
    'reason': (False, {'type': ('R', OVERRIDE), 'comment': ('O', ANY)}),
    'identifiers': (False, {'header_from': ('R', DOMAIN), 'envelope_from': ('O', f'({DOMAIN})?'), 'envelope_to': ('O', DOMAIN)}),
    'auth_results': (True, {'dkim': ('*', 'dkim'), 'spf': ('O', 'spf')}),
    'dkim': (False, {'domain': ('R', DOMAIN), 'selector': ('R', DOMAIN), 'result': ('R', DKIM), 'human_result': ('O', ANY)}),
    'spf': (False, {'domain': ('R', DOMAIN), 'scope': ('O', 'mfrom'), 'result': ('R', SPF), 'human_result': ('O', ANY)}),
}
LEAST, MOST = {'R': 1, 'O': 0, '*': 0, '+': 1}, {'R': 1, 'O': 1, '*': 10 ** 6, '+': 10 ** 6}


def judge(element, name, where):
    ordered, children = FORM[name]
    found = [child.tag.removeprefix(SPACE) for child in element]
    yield from (f'{where}: {child} does not belong there' for child in found if child not in children)
    for child, (often, _) in children.items():
        if not LEAST[often] <= found.count(child) <= MOST[often]:
            yield f'{where}: {child} is there {found.count(child)} times'
    if ordered and found != sorted(found, key=list(children).index if set(found) <= set(children) else None):
        yield f'{where}: the order is {found}'
    for child in element:
        tag = child.tag.removeprefix(SPACE)
        content = children.get(tag, ('', ''))[1]
        if content in FORM:
            yield from judge(child, content, f'{where}/{tag}')
        elif content and (len(child) or not re.fullmatch(content, child.text or '', re.I)):
            yield f'{where}/{tag}: {child.text!r}'


def faults(text):
    root = xml.etree.ElementTree.fromstring(text)
    if root.tag != SPACE + 'feedback':
        return [f'the root is {root.tag}']
    wrong = list(judge(root, 'feedback', 'feedback'))
    for address in root.iter(SPACE + 'source_ip'):
        try:
            ipaddress.ip_address(address.text)
        except ValueError as fault:
            wrong.append(str(fault))
    begin, end = (int(root.find(f'{SPACE}report_metadata/{SPACE}date_range/{SPACE}{word}').text) for word in ('begin', 'end'))
    return wrong if begin < end else wrong + [f'the range is {begin} to {end}']
