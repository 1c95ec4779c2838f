/*
 * How the server of a seed is set, and what it finds: a configuration in a few variants, users and
 * aliases, names. A quarter of the seeds or more has each of the parts that not every server has.
 */
#include "server.h"

#include "config/config.h"

struct setting setting;

void setting_draw(void)
{
    setting = (struct setting){.milter = plan_below(2) == 0,
                               .spamd = plan_below(3) == 0,
                               .corp = plan_below(2) == 0,
                               .submission = plan_below(2) == 0,
                               .lmtp = plan_below(3) == 0,
                               .scan_later = plan_below(5) == 0,
                               .milter_accepts = plan_below(6) == 0,
                               .milter_reuse = plan_below(2) == 0,
                               .milter_mutes = plan_below(3) == 0,
                               .tls = plan_below(4) == 0};
    setting.history = plan_below(2) == 0;
    setting.submission &= setting.corp; /* who logs in is known there */
}

/* ------------------------------------------------------------------ the configuration */

static const char basis[] =
    "hostname = \"mx.home.example\"\n"
    "spool = \"/var/spool/holdfast\"\n"
    "listen smtp { address = \"192.0.2.1:25\" }\n"
    "domain \"home.example\" { users = \"file:/etc/holdfast/users\"\n"
    "  aliases = \"file:/etc/holdfast/aliases\"\n"
    "  deliver = \"maildir:/var/mail/{user}\" }\n"
    "pipe command { command = {\"/bin/command\", \"{user}\"}  timeout = 30s }\n"
    "domain \"pipe.example\" { deliver = \"pipe:command\" }\n"
    "relay { from = {\"198.51.100.0/24\"} }\n"
    "checks { sender_domain = require }\n"
    "resolver { timeout = 5s }\n";

static void print_filters(struct buffer *into)
{
    buffer_print(into,
                 "filter clamav { speaks = clamd  address = \"" CLAMD_AT
                 "\"  timeout = 30s  on_fault = %s }\n",
                 setting.scan_later ? "scan_later" : "defer");
    if (setting.milter)
        buffer_print(into,
                     "filter changer { speaks = milter  address = \"" MILTER_AT
                     "\"  timeout = 30s  on_fault = %s  reuse = %s }\n",
                     setting.milter_accepts ? "accept" : "defer",
                     setting.milter_reuse ? "yes" : "no");
    if (setting.spamd)
        buffer_print(into, "filter spam { speaks = spamd  address = \"" SPAMD_AT
                           "\"  timeout = 30s  reject_score = 15 }\n");
}

static void print_parts(struct buffer *into, unsigned variant)
{
    const char *base = variant == VARIANT_BROKEN ? "broken" : "dc=corp";

    buffer_print(into, "route \"static.example\" { via = \"smtp:" STATIC_AT "\"  tls = %s }\n",
                 setting.tls ? "must" : "may");
    if (setting.history)
        buffer_add_text(into, "history = \"/var/history\"\n");
    if (setting.corp)
        buffer_print(into,
                     "domain \"corp.example\" { users = \"ldap://" DIRECTORY_AT "/%s\"\n"
                     "  aliases = \"ldap://" DIRECTORY_AT "/%s\"\n"
                     "  deliver = \"maildir:/var/mail/{user}\" }\n"
                     "directory { timeout = 4s  connections = 2 }\n",
                     base, base);
    if (setting.submission)
        buffer_print(into, "listen submission { kind = submission  address = \"192.0.2.1:587\" }\n"
                           "auth { without_tls = yes }\n");
    if (setting.lmtp)
        buffer_print(into, "listen lmtp { kind = lmtp  address = \"192.0.2.1:24\" }\n");
}

/* What no letter's fate hangs on. */
static void print_variant(struct buffer *into, unsigned variant)
{
    static const char *const retries[] = {
        "retry { schedule = {1m, 2m, 5m, 10m, 20m}  warn_after = 1h  expire_after = 8h }\n",
        "retry { schedule = {2m, 3m, 10m}  warn_after = 2h  expire_after = 8h }\n"};

    buffer_add_text(into, retries[variant % COUNT_OF(retries)]);
    if (variant == 1)
        buffer_add_text(into, "limits { after_dot = 40s }\n");
    if (variant == 2)
        buffer_add_text(into, "listen more { address = \"192.0.2.1:2525\" }\n");
    if (variant == VARIANT_BROKEN && !setting.corp)
        buffer_add_text(into, "sign gone { domain = \"home.example\"  selector = \"s\"  key = "
                              "\"/etc/holdfast/no-such-key.pem\" }\n");
    if (variant == VARIANT_MALFORMED && planted != PLANT_MALFORMED)
        buffer_add_text(into, "retry { schedule = {soon} \n");
}

struct config *setting_config(unsigned variant)
{
    CLEANUP(buffer_free) struct buffer text = BUFFER_WITH_LIMIT(16 * KIB);
    struct config_errors errors = {0};

    buffer_add_text(&text, basis);
    print_filters(&text);
    print_parts(&text, variant);
    print_variant(&text, variant);
    buffer_add_byte(&text, 0);
    CHECK(!text.failed, "room for a configuration");
    struct config *config = config_parse((const char *)text.at, "simulation", &errors);
    CHECK(config || variant == VARIANT_MALFORMED, "%.*s", BYTES_PRINT(buffer_view(&errors.text)));
    config_errors_free(&errors);
    return config;
}

/* ------------------------------------------------------------------ the world around it */

static void furnish_names(void)
{
    sim_zone_add("home.example", "MX", "10 mx.home.example");
    sim_zone_add("corp.example", "MX", "10 mx.home.example");
    sim_zone_add("mx.home.example", "A", "192.0.2.1");
    sim_zone_add("far.example", "MX", "10 mx1.far.example");
    sim_zone_add("far.example", "MX", "20 mx2.example");
    sim_zone_add("mx1.far.example", "A", "203.0.113.1");
    sim_zone_add("mx2.example", "A", "203.0.113.2");
    sim_zone_add("near.example", "MX", "10 mx2.example");
    sim_zone_add("no.example", "MX", "10 mx2.example");
    sim_zone_add("mx1.far.example", "AAAA", "2001:db8:7::1");
    sim_zone_add("mx2.example", "AAAA", "2001:db8:7::2");
    sim_zone_add("dead.example", "MX", "10 mx.dead.example");
    sim_zone_add("mx.dead.example", "A", "203.0.113.9");
}

void furnish_policy(unsigned id)
{
    static const char text[] =
        "version: STSv1\r\nmode: enforce\r\nmx: " STS_HOST "\r\nmax_age: 7200\r\n";
    static const struct sim_document policy = {.status = 200, .body = text};
    char record[40];

    snprintf(record, sizeof record, "v=STSv1; id=%u;", id);
    sim_zone_remove("_mta-sts.sts.example");
    sim_zone_add("_mta-sts.sts.example", "TXT", record);
    sim_document_put(STS_POLICY_HOST, &policy);
}

/* Hosts that say what TLS they must be given: by DNSSEC and TLSA records, by a policy. */
static void furnish_demands(void)
{
    char tlsa[100];

    tls_print_tlsa(tlsa, sizeof tlsa);
    sim_zone_secure(true);
    sim_zone_add("dane.example", "MX", "10 mx.dane.example");
    sim_zone_add("mx.dane.example", "A", "203.0.113.11");
    sim_zone_add("_25._tcp.mx.dane.example", "TLSA", tlsa);
    sim_zone_add("sts.example", "MX", "10 " STS_HOST);
    sim_zone_add(STS_HOST, "A", "203.0.113.12");
    sim_zone_add(STS_POLICY_HOST, "A", "203.0.113.13");
    furnish_policy(1);
}

void furnish(void)
{
    sim_disk_put("/etc/holdfast/users", BYTES_LITERAL("bob\nann\nalice\n"));
    sim_disk_put("/etc/holdfast/aliases", BYTES_LITERAL("team: bob, ann, x@far.example\n"));
    sim_disk_make_directory("/var/spool");
    sim_disk_make_directory("/var/mail");
    sim_disk_make_directory("/var/history");
    furnish_names();
    if (setting.tls)
        furnish_demands();
}
