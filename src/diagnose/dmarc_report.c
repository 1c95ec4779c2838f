/*
 * An aggregate report (RFC 9990) of one policy domain, made from the events that the history keeps
 * of each message that was evaluated. It is printed, never sent.
 */
#include <string.h>

#include "auth/auth.h"
#include "diagnose/diagnose_private.h"
#include "mail/mail.h"

enum { ROWS_MAX = 5000, DKIM_MAX = 5, SELECTOR_ROOM = 64 };

/* What one event says, as words of its text. */
struct evaluated {
    struct bytes disposition, author, policy_domain, spf_aligned, dkim_aligned, override;
    struct bytes spf, spf_domain;
    struct bytes dkim[DKIM_MAX], dkim_domain[DKIM_MAX], dkim_selector[DKIM_MAX];
    unsigned dkim_count;
};

struct report_row {
    struct bytes ip, text;
    uint64_t count;
};

struct collection {
    const struct dmarc_report_request *request;
    struct arena *arena;
    struct report_row *rows;
    unsigned count;
    bool full;
};

static void take_dkim(struct evaluated *it, struct bytes name, struct bytes value)
{
    if (bytes_equal_text(name, "dkim")) {
        if (it->dkim_count < DKIM_MAX && !bytes_equal_text(value, "none"))
            it->dkim[it->dkim_count++] = value;
        return;
    }
    if (it->dkim_count == 0)
        return;
    if (bytes_equal_text(name, "dkim_domain"))
        it->dkim_domain[it->dkim_count - 1] = value;
    else if (bytes_equal_text(name, "dkim_selector"))
        it->dkim_selector[it->dkim_count - 1] = value;
}

/* Reports name domains. A client may have said what is none, such as EHLO [192.0.2.1]. */
static struct bytes domain_or_nothing(struct bytes text)
{
    return domain_is_valid(text) && text.at[0] != '[' ? text : BYTES_EMPTY;
}

static void read_text(struct bytes text, struct evaluated *it)
{
    const struct {
        const char *name;
        struct bytes *value;
    } plain[] = {{"disposition", &it->disposition},
                 {"author", &it->author},
                 {"policy_domain", &it->policy_domain},
                 {"spf_aligned", &it->spf_aligned},
                 {"dkim_aligned", &it->dkim_aligned},
                 {"override", &it->override},
                 {"spf", &it->spf},
                 {"spf_domain", &it->spf_domain}};

    *it = (struct evaluated){0};
    while (text.count > 0) {
        struct bytes word = BYTES_EMPTY, name = BYTES_EMPTY;
        text = bytes_cut(text, ' ', &word);
        const struct bytes value = bytes_cut(word, '=', &name);
        for (size_t i = 0; i < COUNT_OF(plain); i++)
            if (bytes_equal_text(name, plain[i].name))
                *plain[i].value = value;
        take_dkim(it, name, value);
    }
    it->author = domain_or_nothing(it->author);
    it->spf_domain = domain_or_nothing(it->spf_domain);
    for (unsigned i = 0; i < it->dkim_count; i++) {
        it->dkim_domain[i] = domain_or_nothing(it->dkim_domain[i]);
        it->dkim_selector[i] = domain_or_nothing(it->dkim_selector[i]);
    }
}

/* "192.0.2.1:4711", "[2001:db8::1]:4711"; empty: a program of this host, by a socket without one */
static struct bytes ip_of(struct bytes client)
{
    const size_t colon = bytes_find_last_byte(client, ':');
    struct bytes ip = bytes_slice(client, 0, colon);
    struct ip_address parsed;

    if (ip.count > 2 && ip.at[0] == '[')
        ip = bytes_slice(ip, 1, ip.count - 2);
    return ip_parse(ip, &parsed) ? ip : BYTES_EMPTY;
}

/* Messages that were deferred come again and are counted then. */
static bool collect(void *argument, const struct history_row *row)
{
    struct collection *all = argument;
    const struct bytes ip = ip_of(row->client);
    struct evaluated it;

    if (!bytes_equal_text(row->event, "message.authenticated") ||
        row->wall_us >= all->request->until_wall_us)
        return true;
    read_text(row->text, &it);
    if (!bytes_equal_nocase(it.policy_domain, all->request->domain) ||
        bytes_equal_text(it.disposition, "deferred") || ip.count == 0 || it.author.count == 0)
        return true;
    for (unsigned i = 0; i < all->count; i++)
        if (bytes_equal(all->rows[i].ip, ip) && bytes_equal(all->rows[i].text, row->text)) {
            all->rows[i].count++;
            return true;
        }
    if (all->count == ROWS_MAX) {
        all->full = true;
        return true;
    }
    all->rows[all->count++] = (struct report_row){
        .ip = arena_copy(all->arena, ip), .text = arena_copy(all->arena, row->text), .count = 1};
    return !all->arena->failed;
}

/* ------------------------------------------------------------------ XML */

static void add_escaped(struct buffer *into, struct bytes text)
{
    for (size_t i = 0; i < text.count; i++) {
        const uint8_t octet = text.at[i];
        if (octet == '&')
            buffer_add_text(into, "&amp;");
        else if (octet == '<')
            buffer_add_text(into, "&lt;");
        else if (octet == '>')
            buffer_add_text(into, "&gt;");
        else
            buffer_add_byte(into, ascii_is_print(octet) ? octet : '?');
    }
}

static void add_element(struct buffer *into, unsigned indent, const char *name, struct bytes value)
{
    if (value.count == 0)
        return;
    buffer_print(into, "%*s<%s>", (int)indent, "", name);
    add_escaped(into, value);
    buffer_print(into, "</%s>\n", name);
}

static void add_text_element(struct buffer *into, unsigned indent, const char *name,
                             const char *value)
{
    add_element(into, indent, name, bytes_of_text(value));
}

static const char *pass_or_fail(struct bytes aligned)
{
    return bytes_equal_text(aligned, "yes") ? "pass" : "fail";
}

/* The form wants domain and selector; a signature that has not got them names no key at all. */
static bool names_key(const struct evaluated *it, unsigned i)
{
    return it->dkim_domain[i].count > 0 && it->dkim_selector[i].count > 0;
}

static void add_results(struct buffer *into, const struct evaluated *it)
{
    buffer_add_text(into, "    <auth_results>\n");
    for (unsigned i = 0; i < it->dkim_count; i++) {
        if (!names_key(it, i))
            continue;
        buffer_add_text(into, "      <dkim>\n");
        add_element(into, 8, "domain", it->dkim_domain[i]);
        add_element(into, 8, "selector", it->dkim_selector[i]);
        add_element(into, 8, "result", it->dkim[i]);
        buffer_add_text(into, "      </dkim>\n");
    }
    if (it->spf.count > 0 && it->spf_domain.count > 0) {
        buffer_add_text(into, "      <spf>\n");
        add_element(into, 8, "domain", it->spf_domain);
        add_text_element(into, 8, "scope", "mfrom");
        add_element(into, 8, "result", it->spf);
        buffer_add_text(into, "      </spf>\n");
    }
    buffer_add_text(into, "    </auth_results>\n");
}

static void add_row(struct buffer *into, const struct report_row *row)
{
    struct evaluated it;

    read_text(row->text, &it);
    const bool passed =
        bytes_equal_text(it.spf_aligned, "yes") || bytes_equal_text(it.dkim_aligned, "yes");
    buffer_add_text(into, "  <record>\n    <row>\n");
    add_element(into, 6, "source_ip", row->ip);
    buffer_print(into, "      <count>%llu</count>\n      <policy_evaluated>\n",
                 (unsigned long long)row->count);
    if (passed && bytes_equal_text(it.disposition, "none"))
        add_text_element(into, 8, "disposition", "pass");
    else
        add_element(into, 8, "disposition", it.disposition);
    add_text_element(into, 8, "dkim", pass_or_fail(it.dkim_aligned));
    add_text_element(into, 8, "spf", pass_or_fail(it.spf_aligned));
    if (it.override.count > 0) {
        buffer_add_text(into, "        <reason>\n");
        add_element(into, 10, "type", it.override);
        buffer_add_text(into, "        </reason>\n");
    }
    buffer_add_text(into, "      </policy_evaluated>\n    </row>\n    <identifiers>\n");
    add_element(into, 6, "header_from", it.author);
    add_element(into, 6, "envelope_from", it.spf_domain);
    buffer_add_text(into, "    </identifiers>\n");
    add_results(into, &it);
    buffer_add_text(into, "  </record>\n");
}

/* What the domain publishes now: the history does not keep the record itself. */
static void add_policy(struct buffer *into, const struct dmarc_report_request *request)
{
    const struct dmarc_record *record = request->record;

    buffer_add_text(into, "  <policy_published>\n");
    add_element(into, 4, "domain", request->domain);
    add_text_element(into, 4, "discovery_method", "treewalk");
    add_text_element(into, 4, "p", dmarc_policy_name(record->p));
    if (record->has_sp)
        add_text_element(into, 4, "sp", dmarc_policy_name(record->sp));
    if (record->has_np)
        add_text_element(into, 4, "np", dmarc_policy_name(record->np));
    add_text_element(into, 4, "adkim", record->strict_dkim ? "s" : "r");
    add_text_element(into, 4, "aspf", record->strict_spf ? "s" : "r");
    add_text_element(into, 4, "testing", record->testing ? "y" : "n");
    add_element(into, 4, "fo", record->fo);
    buffer_add_text(into, "  </policy_published>\n");
}

static void add_metadata(struct buffer *into, const struct dmarc_report_request *request)
{
    const long long begin = (long long)(request->since_wall_us / 1000000),
                    end = (long long)(request->until_wall_us / 1000000);

    buffer_add_text(into, "  <report_metadata>\n");
    add_text_element(into, 4, "org_name", request->hostname);
    buffer_print(into, "    <email>postmaster@%s</email>\n", request->hostname);
    buffer_print(into, "    <report_id>%lld-%lld@%s</report_id>\n", begin, end, request->hostname);
    buffer_print(into,
                 "    <date_range>\n      <begin>%lld</begin>\n      <end>%lld</end>\n"
                 "    </date_range>\n",
                 begin, end);
    add_text_element(into, 4, "generator", "Holdfast");
    buffer_add_text(into, "  </report_metadata>\n");
}

bool diagnose_dmarc_report(struct buffer *into, const struct dmarc_report_request *request,
                           char *why, size_t why_room)
{
    struct arena arena = ARENA_WITH_LIMIT(32 * MIB);
    struct collection all = {
        .request = request, .arena = &arena, .rows = calloc(ROWS_MAX, sizeof *all.rows)};

    snprintf(why, why_room, "no memory");
    const bool read = all.rows && history_since(request->history_directory, request->since_wall_us,
                                                collect, &all, why, why_room);
    if (read && all.count > 0) {
        buffer_add_text(into, "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n"
                              "<feedback xmlns=\"urn:ietf:params:xml:ns:dmarc-2.0\">\n"
                              "  <version>1.0</version>\n");
        add_metadata(into, request);
        add_policy(into, request);
        for (unsigned i = 0; i < all.count; i++)
            add_row(into, &all.rows[i]);
        buffer_add_text(into, "</feedback>\n");
    }
    if (read && all.full)
        snprintf(why, why_room, "more than %d different rows: the rest is left out", ROWS_MAX);
    else if (read && all.count == 0)
        snprintf(why, why_room,
                 "no mail under the policy of %.*s was evaluated in this time: no report",
                 BYTES_PRINT(request->domain));
    else if (read)
        why[0] = '\0';
    free(all.rows);
    arena_clear(&arena);
    return read;
}
