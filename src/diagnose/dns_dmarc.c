/*
 * DMARC records as RFC 9989 has them: what the server's parser passes over in silence is said here
 * tag by tag; who is to get reports is asked whether he wants them (RFC 9990).
 */
#include "diagnose/dns_inside.h"

enum { TAGS_MAX = 32, URIS_MAX = 10 };

struct tag {
    struct bytes name, value;
};
struct tags {
    struct tag tags[TAGS_MAX];
    unsigned count;
};

static struct tags read_tags(struct bytes text)
{
    struct tags tags = {0};

    while (text.count > 0 && tags.count < TAGS_MAX) {
        struct bytes spec = BYTES_EMPTY;
        struct tag *tag = &tags.tags[tags.count];
        text = bytes_cut(text, ';', &spec);
        if (bytes_trim(spec).count == 0)
            continue;
        tag->value = bytes_trim(bytes_cut(spec, '=', &tag->name));
        tag->name = bytes_trim(tag->name);
        tags.count++;
    }
    return tags;
}

static const struct tag *find_tag(const struct tags *tags, const char *name)
{
    for (unsigned i = 0; i < tags->count; i++)
        if (bytes_equal_text_nocase(tags->tags[i].name, name))
            return &tags->tags[i];
    return NULL;
}

/* ------------------------------------------------------------------ tag by tag */

static const struct {
    const char *name;
    const char *values; /* what may stand there, with blanks around; NULL: anything */
    char separator;     /* of several */
} KNOWN[] = {{"v", NULL, 0},
             {"p", " none quarantine reject ", 0},
             {"sp", " none quarantine reject ", 0},
             {"np", " none quarantine reject ", 0},
             {"adkim", " r s ", 0},
             {"aspf", " r s ", 0},
             {"t", " y n ", 0},
             {"psd", " y n u ", 0},
             {"fo", " 0 1 d s ", ':'},
             {"rua", NULL, 0},
             {"ruf", NULL, 0}},
  REMOVED[] = {{"pct", NULL, 0}, {"rf", NULL, 0}, {"ri", NULL, 0}};

static bool value_is_known(struct bytes value, const char *values, char separator)
{
    if (!values)
        return true;
    if (value.count == 0)
        return false;
    while (value.count > 0) {
        struct bytes one = BYTES_EMPTY;
        uint8_t padded[16] = " ";
        value = bytes_cut(value, (uint8_t)separator, &one);
        one = bytes_trim(one);
        if (one.count == 0 || one.count > sizeof padded - 2)
            return false;
        for (size_t i = 0; i < one.count; i++)
            padded[i + 1] = one.at[i];
        padded[one.count + 1] = ' ';
        const struct bytes all = bytes_of_text(values);
        if (bytes_find_nocase(all, bytes_of(padded, one.count + 2)) == all.count)
            return false;
    }
    return true;
}

static void judge_tag(struct dns_check *check, struct bytes name, const struct tag *tag)
{
    for (size_t i = 0; i < COUNT_OF(REMOVED); i++) {
        if (bytes_equal_text_nocase(tag->name, REMOVED[i].name)) {
            dns_find(&check->findings, FINDING_DMARC_REMOVED_TAG, name, tag->name);
            return;
        }
    }
    for (size_t i = 0; i < COUNT_OF(KNOWN); i++) {
        if (!bytes_equal_text_nocase(tag->name, KNOWN[i].name))
            continue;
        /* ',' is in no value, so it makes a list of one. */
        const char separator = KNOWN[i].separator ? KNOWN[i].separator : ',';
        if (!value_is_known(tag->value, KNOWN[i].values, separator))
            dns_find(&check->findings, FINDING_DMARC_BAD_VALUE, name,
                     arena_print(check->arena, "%.*s=%.*s", BYTES_PRINT(tag->name),
                                 BYTES_PRINT(tag->value)));
        return;
    }
    dns_find(&check->findings, FINDING_DMARC_UNKNOWN_TAG, name, tag->name);
}

static void judge_tags(struct dns_check *check, struct bytes name, const struct tags *tags)
{
    const struct tag *fo = find_tag(tags, "fo");

    for (unsigned i = 0; i < tags->count; i++) {
        judge_tag(check, name, &tags->tags[i]);
        for (unsigned j = 0; j < i; j++)
            if (bytes_equal_nocase(tags->tags[i].name, tags->tags[j].name))
                dns_find(&check->findings, FINDING_DMARC_DUPLICATE_TAG, name, tags->tags[i].name);
    }
    if (find_tag(tags, "p") && tags->count > 1 && find_tag(tags, "p") != &tags->tags[1])
        dns_find(&check->findings, FINDING_DMARC_P_POSITION, name, BYTES_EMPTY);
    if (fo && bytes_find_byte(fo->value, '0') < fo->value.count &&
        bytes_find_byte(fo->value, '1') < fo->value.count)
        dns_find(&check->findings, FINDING_DMARC_FO_REDUNDANT, name, BYTES_EMPTY);
    if (fo && !find_tag(tags, "ruf"))
        dns_find(&check->findings, FINDING_DMARC_FO_ALONE, name, BYTES_EMPTY);
}

static void judge_policy(struct dns_check *check, struct bytes name, const struct tags *tags,
                         const struct dmarc_record *record)
{
    if (!record->has_p)
        dns_find(&check->findings, FINDING_DMARC_NO_POLICY, name, BYTES_EMPTY);
    else if (record->p == DMARC_POLICY_NONE)
        dns_find(&check->findings, FINDING_DMARC_P_NONE, name, BYTES_EMPTY);
    else if (record->has_sp && record->sp == DMARC_POLICY_NONE)
        dns_find(&check->findings, FINDING_DMARC_SP_NONE, name, BYTES_EMPTY);
    if (record->testing)
        dns_find(&check->findings, FINDING_DMARC_TESTING, name, BYTES_EMPTY);
    if (!find_tag(tags, "rua"))
        dns_find(&check->findings, FINDING_DMARC_NO_RUA, name, BYTES_EMPTY);
}

/* ------------------------------------------------------------------ who gets reports */

/* The domain of "mailto:local@domain!10m"; empty: it is no mailto URI. */
static struct bytes report_domain(struct bytes uri)
{
    if (!bytes_starts_with_nocase(uri, BYTES_LITERAL("mailto:")))
        return BYTES_EMPTY;
    const size_t at = bytes_find_last_byte(uri, '@');
    if (at >= uri.count || at == 7)
        return BYTES_EMPTY;
    struct bytes domain = bytes_skip(uri, at + 1);
    domain = bytes_slice(domain, 0, bytes_find_byte(domain, '!'));
    domain = bytes_slice(domain, 0, bytes_find_byte(domain, '?'));
    return domain_is_valid(domain) ? domain : BYTES_EMPTY;
}

/* `domain`: whose record names the target. */
static bool is_authorised(struct dns_check *check, struct bytes domain, struct bytes target)
{
    const struct bytes name = arena_print(check->arena, "%.*s._report._dmarc.%.*s",
                                          BYTES_PRINT(domain), BYTES_PRINT(target));
    struct dns_answer answer;

    if (dns_check_ask(check, name, DNS_TXT, &answer) == LOOKUP_FAILED)
        return true; /* not known; the failure is told */
    for (unsigned i = 0; i < answer.count; i++)
        if (bytes_starts_with_nocase(bytes_trim(answer.records[i].text), BYTES_LITERAL("v=DMARC1")))
            return true;
    return false;
}

/* Within one organization nobody needs to ask. */
static bool is_external(struct dns_check *check, struct bytes target)
{
    const struct auth_dns dns = {check->request->resolver, check->arena,
                                 check->request->deadline_us};
    enum auth_result ours = AUTH_NONE, theirs = AUTH_NONE;

    if (bytes_equal_nocase(target, check->request->domain))
        return false;
    const struct bytes here = dmarc_organizational_domain(&dns, check->request->domain, &ours);
    const struct bytes there = dmarc_organizational_domain(&dns, target, &theirs);
    return here.count == 0 || there.count == 0 || !bytes_equal_nocase(here, there);
}

/* `name`: _dmarc. and the domain whose record it is. */
static void judge_reports(struct dns_check *check, struct bytes name, struct bytes uris)
{
    for (unsigned i = 0; uris.count > 0 && i < URIS_MAX; i++) {
        struct bytes uri = BYTES_EMPTY;
        uris = bytes_cut(uris, ',', &uri);
        uri = bytes_trim(uri);
        const struct bytes domain = report_domain(uri);
        if (domain.count == 0)
            dns_find(&check->findings, FINDING_DMARC_BAD_URI, name, uri);
        else if (is_external(check, domain) && !is_authorised(check, bytes_skip(name, 7), domain))
            dns_find(&check->findings, FINDING_DMARC_REPORT_REFUSED, name, domain);
    }
}

/* ------------------------------------------------------------------ the record */

static void judge_record(struct dns_check *check, struct bytes name, struct bytes text)
{
    const struct tags tags = read_tags(text);
    struct dmarc_record record;
    json_t *object = json_object_get(check->answer, "dmarc"), *values = json_object();
    const enum auth_result result = dmarc_parse(text, &record);

    if (result != AUTH_PASS)
        dns_find(&check->findings, FINDING_DMARC_SYNTAX, name, BYTES_EMPTY);
    judge_tags(check, name, &tags);
    if (result == AUTH_PASS)
        judge_policy(check, name, &tags, &record);
    judge_reports(check, name, record.rua);
    judge_reports(check, name, record.ruf);
    for (unsigned i = 0; i < tags.count; i++) {
        const struct bytes key = arena_copy(check->arena, tags.tags[i].name);
        if (key.count > 0 && bytes_is_utf8(key))
            json_object_set_new(values, (const char *)key.at, diagnose_text(tags.tags[i].value));
    }
    json_object_set_new(object, "record", diagnose_text(text));
    json_object_set_new(object, "found_at", diagnose_text(name));
    json_object_set_new(object, "policy", json_string(dmarc_policy_name(record.p)));
    json_object_set_new(object, "tags", values);
}

static void judge_stranger(struct dns_check *check, struct bytes name, struct bytes text)
{
    if (spf_lint_is_record(text))
        dns_find(&check->findings, FINDING_DMARC_SPF_RECORD, name, BYTES_EMPTY);
    else
        dns_find(&check->findings, FINDING_DMARC_UNRELATED, name, text);
}

/* How many DMARC records are at _dmarc.domain; the one is judged. FAILED counts as found. */
static unsigned look_at(struct dns_check *check, struct bytes domain)
{
    const struct bytes name = arena_print(check->arena, "_dmarc.%.*s", BYTES_PRINT(domain));
    struct dns_answer answer;
    struct bytes text = BYTES_EMPTY;
    struct dmarc_record record;
    unsigned found = 0;

    if (dns_check_ask(check, name, DNS_TXT, &answer) == LOOKUP_FAILED)
        return 1;
    for (unsigned i = 0; i < answer.count; i++) {
        if (dmarc_parse(answer.records[i].text, &record) == AUTH_NONE)
            judge_stranger(check, name, answer.records[i].text);
        else if (found++ == 0)
            text = answer.records[i].text;
    }
    if (found == 1)
        judge_record(check, name, text);
    else if (found > 1)
        dns_find(&check->findings, FINDING_DMARC_MULTIPLE, name, dns_number(check->arena, found));
    return found;
}

void dns_check_dmarc(struct dns_check *check)
{
    const struct bytes domain = check->request->domain;
    const struct auth_dns dns = {check->request->resolver, check->arena,
                                 check->request->deadline_us};
    enum auth_result result = AUTH_NONE;

    json_object_set_new(check->answer, "dmarc", json_object());
    if (look_at(check, domain) > 0)
        return;
    const struct bytes above = dmarc_organizational_domain(&dns, domain, &result);
    if (above.count > 0 && !bytes_equal_nocase(above, domain) && look_at(check, above) > 0)
        dns_find(&check->findings, FINDING_DMARC_INHERITED, domain, above);
    else
        dns_find(&check->findings, FINDING_DMARC_MISSING, domain, BYTES_EMPTY);
}
