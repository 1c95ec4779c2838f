/* The configuration: the contract's file, every error with its place, round trip, manual, cuts. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <ftw.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "config/config.h"

#define REST "hostname = \"mx.example.com\"\nspool = \"/s\"\n"

static const char CONTRACT[] =
    "hostname = \"MX1.example.com\"\n"
    "spool    = \"/var/spool/holdfast\"\n"
    "user     = \"holdfast\"\n"
    "\n"
    "listen smtp       { address = \"0.0.0.0:25\" }\n"
    "listen submission { address = \"0.0.0.0:587\"  kind = submission }        # AUTH and TLS\n"
    "listen submissions{ address = \"0.0.0.0:465\"  kind = submission  tls = implicit }\n"
    "tls { certificate = \"/etc/holdfast/cert.pem\"  key = \"/etc/holdfast/key.pem\" }\n"
    "domain \"Example.com\" {\n"
    "    users   = \"file:/etc/holdfast/users\"        # sqlite:FILE?table=\xe2\x80\xa6\n"
    "    aliases = \"file:/etc/aliases\"\n"
    "    deliver = \"lmtp:unix:/run/dovecot/lmtp\"\n"
    "}\n"
    "domain \"a.example\" { deliver = \"maildir:/var/mail/{domain}/{user}\" tag_separator = \"\" "
    "filters = {} }\n"
    "relay { from = {\"127.0.0.0/8\"}  via = \"\" }\n"
    "route \"shop.example\" { via = \"smtp:127.0.0.1:2626\"  tls = may }\n"
    "route \"name.example\" { via = \"smtp:next.example.net\"  tls = must }\n"
    "route \"smart.example\" { via = \"smtps:smart.example.net\"  tls = verify  login = \"/l\"\n"
    "    source_ipv4 = \"192.0.2.9\"  source_ipv6 = \"2001:db8::9\"  helo = \"Out.Example.com\" }\n"
    "route \"strict.example\" { tls = must }\n"
    "filter clamav { speaks = clamd   address = \"unix:/run/clamav/clamd.ctl\"  timeout = 30s  "
    "on_fault = defer reject_score = 7.25 }\n"
    "checks   { reverse_dns = record  sender_domain = require  patience = 6h }\n"
    "resolver { forward = {\"127.0.0.1@5353\", \"::1\"}  timeout = 5s  trust_anchor = \"\" }\n"
    "retry    { schedule = {5m, 10m, 20m, 30m, \"1h until 6h\", \"2h until 24h\", 4h}  "
    "warn_after = 4h  expire_after = 5d }\n"
    "limits   { message_size = 50M  recipients = 010 }\n"
    "limits   { connections = 10000 }\n"
    "web      { address = \"127.0.0.1:8025\" }\n"
    "log      { format = postfix  level = info }\n";

static struct config *parse(const char *text)
{
    struct config_errors errors = {0};
    struct config *config = config_parse(text, "t", &errors);

    if (!config)
        fprintf(stderr, "%.*s", BYTES_PRINT(buffer_view(&errors.text)));
    assert_non_null(config);
    assert_int_equal(errors.count, 0);
    config_errors_free(&errors);
    return config;
}

static void check_names(const struct config *config)
{
    assert_string_equal(config->hostname, "mx1.example.com");
    assert_string_equal(config->file, "t");
    assert_int_equal(config->listen_count, 3);
    assert_string_equal(config->listens[2].name, "submissions");
    assert_int_equal(config->listens[2].tls, TLS_MODE_IMPLICIT);
    assert_int_equal(config->listens[1].kind, LISTEN_SUBMISSION);
    assert_int_equal(config->domain_count, 2);
    const struct config_domain *domain = config_find_domain(config, BYTES_LITERAL("EXAMPLE.com"));
    assert_non_null(domain);
    assert_string_equal(domain->name, "example.com");
    assert_int_equal(domain->deliver.kind, DELIVER_LMTP);
    assert_int_equal(domain->deliver.endpoint.family, ENDPOINT_UNIX);
    assert_int_equal(domain->tag_separator, '+');
    assert_int_equal(config_find_domain(config, BYTES_LITERAL("a.example"))->tag_separator, 0);
    assert_int_equal(config_filters_of(config, domain), 1);
    assert_int_equal(
        config_filters_of(config, config_find_domain(config, BYTES_LITERAL("a.example"))), 0);
    assert_true(config->filters[0].partial && config_filters_of(config, NULL) == 1);
    assert_null(config_find_domain(config, BYTES_LITERAL("example.co")));
    assert_null(config_find_domain(config, BYTES_EMPTY));
}

static void check_next_hops(const struct config *config)
{
    const struct config_route *route = config_find_route(config, BYTES_LITERAL("shop.example"));

    assert_int_equal(route->via.endpoint.port, 2626);
    assert_int_equal(route->tls, TLS_USE_MAY);
    route = config_find_route(config, BYTES_LITERAL("Name.Example"));
    assert_true(bytes_equal_text(route->via.host, "next.example.net"));
    assert_int_equal(route->via.endpoint.family, ENDPOINT_NONE);
    assert_int_equal(route->via.port, 25);
    assert_int_equal(route->tls, TLS_USE_MUST);
    route = config_find_route(config, BYTES_LITERAL("smart.example"));
    assert_true(route->via.implicit_tls && route->via.port == 465);
    assert_int_equal(route->tls, TLS_USE_VERIFY);
    assert_int_equal(route->sending.source4.octets[3], 9);
    assert_int_equal(route->sending.source6.family, ENDPOINT_IPV6);
    assert_string_equal(route->sending.helo, "out.example.com");
    route = config_find_route(config, BYTES_LITERAL("strict.example"));
    assert_true(route->via.kind == DELIVER_NONE && route->tls == TLS_USE_MUST);
    assert_true(config->sts_enabled && config->sts_port == 443);
    assert_int_equal(config->relay_via.kind, DELIVER_NONE);
    assert_int_equal(config->relay_from_count, 1);
    assert_int_equal(config->relay_from[0].prefix_bits, 8);
    assert_int_equal(config->smtp_port, 25);
}

static void check_numbers(const struct config *config)
{
    assert_int_equal(config->filters[0].timeout_us, 30 * US_PER_S);
    assert_true(config->filters[0].reject_score > 7.2499 &&
                config->filters[0].reject_score < 7.2501);
    assert_int_equal(config->checks.sender_domain, CHECK_ENFORCE);
    assert_int_equal(config->checks.reverse_dns, CHECK_RECORD);
    assert_int_equal(config->checks.spf, CHECK_OFF);
    assert_int_equal(config->resolver.forward_count, 2);
    assert_int_equal(config->resolver.forward[0].port, 5353);
    assert_int_equal(config->resolver.forward[1].port, 53);
    assert_int_equal(config->retry.step_count, 7);
    assert_int_equal(config->retry.steps[4].every_us, 3600 * US_PER_S);
    assert_int_equal(config->retry.steps[4].until_us, 6 * 3600 * US_PER_S);
    assert_int_equal(config->retry.steps[6].until_us, 0);
    assert_int_equal(config->retry.ambiguous_pause_us, 600 * US_PER_S);
    assert_int_equal(config->limits.message_size, 50 * MIB);
    assert_int_equal(config->limits.recipients, 10); /* not octal */
    assert_int_equal(config->limits.connections, 10000);
    assert_int_equal(config->limits.hops, 100);
    assert_int_equal(config->web.port, 8025);
    assert_int_equal(config->log_format, 1);
}

static void test_contract(void **state UNUSED)
{
    struct config *config = parse(CONTRACT);

    check_names(config);
    check_next_hops(config);
    check_numbers(config);
    config_free(config);
}

/* What is printed means the same. */
static void test_round_trip(void **state UNUSED)
{
    struct buffer first = BUFFER_WITH_LIMIT(MIB), second = BUFFER_WITH_LIMIT(MIB);
    struct config *config = parse(CONTRACT);

    config_print(&first, config);
    config_free(config);
    buffer_add_byte(&first, 0);
    config = parse((const char *)first.at);
    check_names(config);
    check_next_hops(config);
    check_numbers(config);
    config_print(&second, config);
    buffer_add_byte(&second, 0);
    assert_string_equal((const char *)first.at, (const char *)second.at);
    config_free(config);
    buffer_free(&first);
    buffer_free(&second);
}

static void test_quotes(void **state UNUSED)
{
    struct buffer text = BUFFER_WITH_LIMIT(MIB);
    struct config *config =
        parse("hostname = mx\nspool = '/a ${HOME} \"b\\'\\\\'\nuser = \"c\\\"d\\\\\"\n");

    assert_string_equal(config->spool, "/a ${HOME} \"b'\\");
    assert_string_equal(config->user, "c\"d\\");
    config_print(&text, config);
    buffer_add_byte(&text, 0);
    config_free(config);
    config = parse((const char *)text.at);
    assert_string_equal(config->spool, "/a ${HOME} \"b'\\");
    assert_string_equal(config->user, "c\"d\\");
    config_free(config);
    buffer_free(&text);
}

/* Each text gives exactly these lines. */
static const struct {
    const char *text, *errors;
} WRONG[] = {
    {"", "t:1: hostname is missing\nt:1: spool is missing\n"},
    {REST "colour = red\n", "t:3: unknown setting \"colour\"\n"},
    {REST "/* two\nlines */ weird { a = 1 }\n", "t:4: unknown section \"weird\"\n"},
    {REST "weird x { a = {1, 2} b = 3 }\n", "t:3: unknown section \"weird\"\n"},
    {REST "limits {\n mesage_size = 1M }\n",
     "t:4: unknown setting \"mesage_size\" in section limits\n"},
    {REST "limits {\n hops = 50\n", "t:3: the section that begins here is not closed\n"},
    {REST "limits {\n hops = 50\nweb {\n}\n",
     "t:5: a section may not begin inside another; is the one of line 3 closed?\n"},
    {REST "limits { hops = 50 } }\n",
     "t:3: \"}\" stands where a setting or a section was expected\n"},
    {REST "spool = \"/other\"\n", "t:3: \"spool\" was already set at t:2\n"},
    {REST "limits { hops = 50 }\nlimits { hops = 60 }\n", "t:4: \"hops\" was already set at t:3\n"},
    {REST "listen a { address = \"127.0.0.1:1\"\n address = \"127.0.0.1:2\" }\n",
     "t:4: \"address\" was already set at t:3\n"},
    {REST "domain \"a.example\" { deliver = \"maildir:/m\" }\n"
          "domain \"A.EXAMPLE\" { deliver = \"maildir:/m\" }\n",
     "t:4: domain \"A.EXAMPLE\" already stands at t:3\n"},
    {REST "domain { deliver = \"maildir:/m\" }\n", "t:3: section domain needs a title\n"},
    {REST "web x { }\n", "t:3: section web takes no title\n"},
    {REST "user = \"${HOME}\"\n",
     "t:3: ${...} is not expanded; for the plain characters use single quotes\n"},
    {REST "user = ${HOME}\n",
     "t:3: an unexpected character; values other than words need quotes\n"},
    {REST "user = \"a\n\"", "t:3: the string is not closed on its line\n"},
    {REST "user = \"a\\x41\"\n",
     "t:3: in double quotes a backslash stands only before \" or \\; use single quotes\n"},
    {REST "/* never ends", "t:3: a comment is not closed\n"},
    {REST "user = a#b\n", "t:3: an unexpected character; values other than words need quotes\n"},
    {REST "user = {a, b}\n", "t:3: \"user\" takes one value, not a list\n"},
    {REST "user a\n", "t:4: the text ends where \"{\" or \"=\" was expected\n"},
    {REST "user = = a\n", "t:3: \"=\" stands where a value was expected\n"},
    {REST "exclude(\"x\")\n", "t:3: \"exclude\" stands where a setting was expected\n"},
    {REST "relay { from = {\"10.0.0.0/8\" \"11.0.0.0/8\"} }\n",
     "t:3: \"\"11.0.0.0/8\"\" stands where \",\" or \"}\" was expected\n"},
    {"hostname = \"a b\"\nspool = \"\"\n",
     "t:1: hostname: \"a b\" is not a host name\nt:2: spool: \"\" is not a path\n"},
    {REST "limits {\n message_size = 50X\n recipients = 0\n hops = 99999\n command_timeout = 30\n"
          " errors = -1 }\n",
     "t:4: limits: message_size: \"50X\" is not a size like 1000, 64K or 50M\n"
     "t:5: limits: recipients: \"0\" is too small\n"
     "t:6: limits: hops: \"99999\" is too large\n"
     "t:8: limits: errors: \"-1\" is not a number\n"
     "t:7: limits: command_timeout: \"30\" is not a duration like 30s, 5m, 4h or 5d\n"},
    {REST "listen a { }\n", "t:3: listen \"a\": address is missing\n"},
    {REST "listen a { address = \"mx:25\" kind = pop }\n",
     "t:3: listen \"a\": address: \"mx:25\" is not IP:PORT, [IPv6]:PORT or unix:PATH\n"
     "t:3: listen \"a\": kind: \"pop\" is none of smtp, submission, lmtp\n"},
    {REST "listen a { address = \"127.0.0.1:25\" }\nlisten b {\n address = \"127.0.0.1:25\" }\n",
     "t:5: listen \"b\": 127.0.0.1:25 is taken by listen \"a\"\n"},
    {REST "listen a { address = \"127.0.0.1:25\" }\nweb { address = \"127.0.0.1:25\" }\n",
     "t:3: listen \"a\": 127.0.0.1:25 is taken by web\n"},
    {REST "listen a { address = \"127.0.0.1:465\" tls = implicit }\n",
     "t:3: listen \"a\": tls = implicit needs a certificate in section tls\n"},
    {REST "tls { key = \"/k\" }\n", "t:3: tls: certificate and key belong together\n"},
    {REST "listen \"a b\" { address = \"127.0.0.1:25\" }\n",
     "t:3: listen \"a b\" is not a name of letters, digits, -, _ and .\n"},
    {REST "domain \"a..b\" { deliver = \"maildir:/m\" }\n",
     "t:3: domain \"a..b\" is not a domain name\n"},
    {REST
     "domain \"a.b\" { deliver = \"imap:x\" users = \"passwd\" aliases = \"x\" catch_all = \"me\""
     " tag_separator = \"ab\" }\n",
     "t:3: domain \"a.b\": users: \"passwd\" is not file:PATH, sqlite:FILE?..., ldap://... or "
     "postgresql://...\n"
     "t:3: domain \"a.b\": aliases: \"x\" is not file:PATH, sqlite:FILE?..., ldap://... or "
     "postgresql://...\n"
     "t:3: domain \"a.b\": deliver: \"imap:x\" is not maildir:PATH, lmtp:unix:PATH, "
     "lmtp:HOST:PORT, "
     "smtp:HOST:PORT or pipe:NAME\n"
     "t:3: domain \"a.b\": catch_all: \"me\" is not an address like user@example.com\n"
     "t:3: domain \"a.b\": tag_separator: \"ab\" is not one mark like + or -\n"},
    {REST "domain \"a.b\" { deliver = \"maildir:/m/{user}\"\n filters = {\"all\", \"nope\"} }\n",
     "t:4: domain \"a.b\": filters: \"nope\" is none of the filters here\n"},
    {REST "filter all { speaks = clamd address = \"127.0.0.1:1\" }\n",
     "t:3: filter \"all\": \"all\" means each of them and is no name\n"},
    {REST "domain \"a.b\" { deliver = \"\" }\n",
     "t:3: domain \"a.b\": deliver: \"\" names no way of delivery\n"},
    {REST "route \"a.b\" { via = \"maildir:/m\" }\n",
     "t:3: route \"a.b\": via: \"maildir:/m\" is not a next hop: only smtp: and lmtp: are\n"},
    {REST "route \"a.b\" { via = \"smtp:host:0\" }\n",
     "t:3: route \"a.b\": via: \"smtp:host:0\" is not smtp:HOST:PORT, smtps:HOST:PORT, "
     "lmtp:HOST:PORT or lmtp:unix:PATH\n"},
    {REST "route \"a.b\" { via = \"smtps:h\" tls = never source_ipv4 = \"::1\" helo = \"a b\" }\n",
     "t:3: route \"a.b\": helo: \"a b\" is not a host name\n"
     "t:3: route \"a.b\": source_ipv4: \"::1\" is not an IPv4 address\n"
     "t:3: route \"a.b\": tls = never contradicts smtps:\n"},
    {REST "route \"a.b\" { via = \"smtps:h\" tls = never }\n",
     "t:3: route \"a.b\": tls = never contradicts smtps:\n"},
    {REST "route \"a.b\" { login = \"/secret\" }\nrelay { tls = dane }\n",
     "t:4: relay: tls = dane needs resolver { trust_anchor = ... }\n"
     "t:3: route \"a.b\": login needs via = smtp: or smtps:, and TLS\n"},
    {REST "domain \"a.b\" { deliver = \"maildir:/m\" }\nroute \"A.b\" { via = \"smtp:h\" }\n",
     "t:4: route \"a.b\" would never be used: that domain's mail ends here\n"},
    {REST "relay { from = {\"10.0.0.1/8\"} }\n",
     "t:3: relay: from: \"10.0.0.1/8\" has bits set behind its prefix\n"},
    {REST "relay { from = {\"10.0.0.0/33\"} }\n",
     "t:3: relay: from: \"10.0.0.0/33\" is not a network like 192.0.2.0/24\n"},
    {REST "resolver { forward = {\"dns.example\"} }\n",
     "t:3: resolver: forward: \"dns.example\" is not IP or IP@PORT\n"},
    {REST "retry { schedule = {} }\n", "t:3: retry: schedule is empty\n"},
    {REST "retry { schedule = {soon} }\n",
     "t:3: retry: schedule: \"soon\" is not a wait like 5m or \"1h until 6h\"\n"
     "t:3: retry: schedule is empty\n"},
    {REST "retry { warn_after = 1h\n schedule = {\"1h until 6h\", \"1h until 5h\", 1h} }\n",
     "t:4: retry: schedule: the ages behind \"until\" must rise and exceed the wait\n"},
    {REST "retry { schedule = {1h, \"1h until 6h\"} }\n",
     "t:3: retry: schedule: the last wait repeats, so it has no \"until\"\n"},
    {REST "filter f { speaks = clamd address = {} }\n",
     "t:3: filter \"f\": address names no instance\n"},
    {REST
     "filter f { speaks = clamd address = \"127.0.0.1:1\" reject_score = 1e5 name_in_reply = 2 }\n",
     "t:3: filter \"f\": reject_score: \"1e5\" is not a number like 15 or 7.5\n"
     "t:3: filter \"f\": name_in_reply: \"2\" is not yes or no\n"},
    {REST "checks { arc = maybe }\n",
     "t:3: checks: arc: \"maybe\" is none of off, record, enforce, require\n"},
    {REST "include(\"/nonexistent/file\")\n",
     "t:3: cannot open /nonexistent/file: No such file or directory\n"},
    {REST "include(\"/dev/zero\")\n", "t:3: cannot open /dev/zero: Invalid argument\n"},
    {REST "include()\n", "t:3: \")\" stands where a file name was expected\n"},
    {REST "include(\"\")\n", "t:3: include names no file\n"},
    {REST "pipe p { command = {\"bin/x\"} }\n",
     "t:3: pipe \"p\": command has to begin with the whole path of a program\n"},
    {REST "pipe p { command = {\"/bin/{user}\"} }\n",
     "t:3: pipe \"p\": command has to begin with the whole path of a program\n"},
    {REST "pipe p { command = {\"/bin/x\", \"-d{usr}\"} }\n",
     "t:3: pipe \"p\": command: \"-d{usr}\": nothing is filled in for \"{usr}\"\n"},
    {REST "pipe p { command = {\"/bin/x\"} user = root }\n",
     "t:3: pipe \"p\": user: no command runs as root\n"},
    {REST "pipe p { command = {\"/bin/x\"} directory = \"tmp\" }\n",
     "t:3: pipe \"p\": directory has to be a whole path\n"},
    {REST "domain \"d.example\" { deliver = \"pipe:/bin/x -d\" }\n",
     "t:3: domain \"d.example\": deliver: there is no section pipe \"/bin/x -d\"\n"},
    {REST "domain \"d.example\" { deliver = \"maildir:/m\" alias_pipes = \"a\" }\n",
     "t:3: domain \"d.example\": alias_pipes: there is no section pipe \"a\"\n"},
};

static void test_errors(void **state UNUSED)
{
    for (size_t i = 0; i < COUNT_OF(WRONG); i++) {
        struct config_errors errors = {0};
        struct config *config = config_parse(WRONG[i].text, "t", &errors);
        buffer_add_byte(&errors.text, 0);
        assert_string_equal(errors.text.at ? (const char *)errors.text.at : "accepted",
                            WRONG[i].errors);
        assert_null(config);
        config_errors_free(&errors);
    }
}

static void test_nul(void **state UNUSED)
{
    static const char text[] = REST "user = \"a\0b\"\n";
    static const char bare[] = REST "\0\nuser = a\n";
    struct config_errors errors = {0};

    assert_null(config_parse_bytes(bytes_of(text, sizeof text - 1), "t", &errors));
    assert_null(config_parse_bytes(bytes_of(bare, sizeof bare - 1), "t", &errors));
    assert_true(bytes_equal_text(buffer_view(&errors.text),
                                 "t:3: a NUL byte stands in the text\n"
                                 "t:3: a NUL byte stands in the text\n"));
    config_errors_free(&errors);
}

/* ------------------------------------------------------------------ files */

static char folder[] = "/tmp/holdfast-config-XXXXXX";

static const char *write_file(const char *name, const char *text)
{
    static char path[200];

    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
    return path;
}

static void test_include(void **state UNUSED)
{
    struct config_errors errors = {0};
    char path[200], expected[400];

    assert_int_equal(chdir("/"), 0);
    snprintf(path, sizeof path, "%s/sub", folder);
    assert_int_equal(mkdir(path, 0700), 0);
    write_file("sub/limits.conf", "limits { hops = 50 }\n");
    write_file("part.conf", "\ninclude(\"sub/limits.conf\") user = \"u\"\n");
    struct config *config =
        config_load(write_file("main.conf", REST "include(\"part.conf\")\nweb { }\n"), &errors);
    assert_non_null(config);
    assert_int_equal(config->limits.hops, 50);
    assert_string_equal(config->user, "u");
    config_free(config);

    write_file("sub/limits.conf", "# one\nlimits { hops = 1 }\n");
    assert_null(
        config_load(write_file("main.conf", REST "include(\"part.conf\")\nloops = x\n"), &errors));
    snprintf(expected, sizeof expected,
             "%s/main.conf:4: loops: \"x\" is not a number\n"
             "%s/sub/limits.conf:2: limits: hops: \"1\" is too small\n",
             folder, folder);
    buffer_add_byte(&errors.text, 0);
    assert_string_equal((const char *)errors.text.at, expected);
    config_errors_free(&errors);
}

static void test_include_circle(void **state UNUSED)
{
    struct config_errors errors = {0};
    char expected[300];

    assert_null(config_load(write_file("circle.conf", "include(\"circle.conf\")\n"), &errors));
    snprintf(expected, sizeof expected,
             "%s/circle.conf:1: too many files include each other (%s/circle.conf)\n", folder,
             folder);
    buffer_add_byte(&errors.text, 0);
    assert_string_equal((const char *)errors.text.at, expected);
    config_errors_free(&errors);
    assert_null(config_load("/nonexistent/holdfast.conf", &errors));
    assert_true(errors.count == 1);
    config_errors_free(&errors);
    assert_null(config_load(folder, &errors)); /* a directory */
    assert_true(errors.count == 1);
    config_errors_free(&errors);
}

/* Every prefix parses or is refused with a place, and leaks nothing (the sanitizers watch). */
static void test_cuts(void **state UNUSED)
{
    for (size_t count = 0; count < sizeof CONTRACT - 1; count++) {
        struct config_errors errors = {0};
        struct config *config = config_parse_bytes(bytes_of(CONTRACT, count), "t", &errors);
        assert_true((config == NULL) == (errors.count > 0));
        assert_true(errors.count == 0 ||
                    bytes_starts_with(buffer_view(&errors.text), BYTES_LITERAL("t:")));
        config_free(config);
        config_errors_free(&errors);
    }
}

/* docs/configuration.md is the program's own account. HOLDFAST_WRITE_DOCS=1 writes it anew. */
static void test_manual(void **state UNUSED)
{
    struct buffer manual = BUFFER_WITH_LIMIT(MIB);
    static char text[256 * 1024];
    const char *path = getenv("HOLDFAST_MANUAL");

    if (!path) {
        print_message("SKIP: HOLDFAST_MANUAL does not name docs/configuration.md\n");
        skip();
    }
    config_print_manual(&manual);
    FILE *file = fopen(path, getenv("HOLDFAST_WRITE_DOCS") ? "w+" : "r");
    assert_non_null(file);
    if (getenv("HOLDFAST_WRITE_DOCS")) {
        fwrite(manual.at, 1, manual.count, file);
        rewind(file);
    }
    text[fread(text, 1, sizeof text - 1, file)] = 0;
    fclose(file);
    buffer_add_byte(&manual, 0);
    assert_string_equal(text, (const char *)manual.at);
    buffer_free(&manual);
}

static int remove_entry(const char *path, const struct stat *facts UNUSED, int kind UNUSED,
                        struct FTW *where UNUSED)
{
    return remove(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_contract),
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_quotes),
        cmocka_unit_test(test_errors),
        cmocka_unit_test(test_nul),
        cmocka_unit_test(test_include),
        cmocka_unit_test(test_include_circle),
        cmocka_unit_test(test_cuts),
        cmocka_unit_test(test_manual),
    };

    if (!mkdtemp(folder))
        return 1;
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    nftw(folder, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
    return failed;
}
